# Chapter 4 of the demo, sourced by it.

model='SELECT person_id::text AS person_id, count(*) AS orders, sum(value) AS revenue
       FROM cdi.conversion_events GROUP BY person_id'

# push: run the sync and wait until everything it queued has ended.
push()
{
	run=$(sql -c "SELECT cdi_sync_run('customers')")
	wait_for 180 'SELECT sum(waiting) = 0 FROM cdi_bi.sync_health' ||
		die "the rows of run $run are not pushed within three minutes; see ${here#"$CDI_ROOT"/}/log/postgresql.log"
	table -c "SELECT queried, added, changed, removed, unchanged FROM cdi.sync_runs WHERE run_id = $run"
}

sql -c "SELECT cdi_create_destination('crm', 'webhook', '{\"url\": \"$receiver\"}')" \
	-c "SELECT cdi_create_sync('customers', 'crm', '$model', 'person_id')" \
	-c 'SELECT cdi_arm()' >/dev/null
printf '  the first run pushes every customer who ordered:\n'
push
printf '  a second run finds nothing new:\n'
push
sql -c "SELECT cdi_track(user_id, 'Order Completed', '{\"revenue\": 19.99}', message_id => 'one-more') FROM (
	SELECT user_id FROM cdi.events WHERE event = 'Order Completed' AND user_id IS NOT NULL ORDER BY position LIMIT 1) e" >/dev/null
printf '  one more order, one changed row:\n'
push
printf '  requests, the third of each three answered 503 by the endpoint:\n'
table -c "SELECT class, status, count(*) AS requests, sum(rows) AS rows, sum(accepted) AS accepted FROM cdi.deliveries GROUP BY 1, 2 ORDER BY 1, 2"
read -r customers revenue < <(python3 $demo/received.py "$here/received.jsonl")
expect 'customers at the endpoint' "$customers" \
	"$(sql -c "SELECT count(DISTINCT person) FROM cdi_simulate_conversions($persons, $seed, '$start_at')")"
expect 'their revenue at the endpoint' "$revenue" \
	"$(sql -c "SELECT sum(value) + 19.99 FROM cdi_simulate_conversions($persons, $seed, '$start_at')")"
expect 'rows acknowledged' "$(sql -c 'SELECT count(*) FROM cdi.sync_rows')" "$customers"
expect 'dead letters' "$(sql -c 'SELECT count(*) FROM cdi.failed_deliveries')" 0
