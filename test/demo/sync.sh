# Chapter 4 of the demo, sourced by it: customers with their orders go to an
# endpoint that is out of order now and then.
model="SELECT p.person_id, p.traits->>'email' AS email, count(*) AS orders, sum(c.value) AS revenue
FROM cdi.persons p JOIN cdi.conversion_events c USING (person_id) GROUP BY p.person_id, p.traits"
customers=$(sql -c "SELECT count(*) FROM ($model) m")

# What the endpoint has: rows, and how many of them are equal to the model's.
received()
{
	python3 - "$here/received.jsonl" <<-'PY'
	import json, sys
	rows = {}
	for line in open(sys.argv[1]):
	    record = json.loads(line, parse_float=str, parse_int=str)
	    rows[record["primary_key"]] = record["row"]
	for key, row in sorted(rows.items()):
	    print("%s|%s|%s|%s" % (key, row["email"] if row["email"] is not None else "", row["orders"], row["revenue"]))
	PY
}

# The outbox is empty when everything in it was acknowledged or has failed for good.
pushed()
{
	wait_for 60 'SELECT coalesce(sum(waiting), 0) = 0 FROM cdi_bi.sync_health' ||
		die 'the push worker does not empty the outbox; see cdi.deliveries and the log of the cluster'
}

sql -c "SELECT cdi_create_destination('crm', 'webhook', jsonb_build_object('url', '$receiver', 'batch_size', 10))" \
	-c "SELECT cdi_create_sync('customers', 'crm', \$\$$model\$\$, 'person_id')" \
	-c 'SELECT cdi_arm()' \
	-c "SELECT cdi_sync_run('customers')" >/dev/null
pushed
table -c 'SELECT queried, added, changed, removed, unchanged, invalid FROM cdi.sync_runs ORDER BY run_id'
table -c 'SELECT class AS "answers", status, count(*) AS requests, sum(rows) AS rows, sum(accepted) AS accepted FROM cdi.deliveries GROUP BY 1, 2 ORDER BY 5 DESC'
expect 'rows acknowledged, customers of the model' "$(sql -c 'SELECT count(*) FROM cdi.sync_rows')" "$customers"
expect 'checksum of what the endpoint has, of the model' \
	"$(received | md5sum | cut -c1-12)" \
	"$(sql -c "SELECT person_id, email, orders, revenue FROM ($model) m ORDER BY person_id::text COLLATE \"C\"" | md5sum | cut -c1-12)"

printf '  somebody orders once more, and the sync runs again:\n'
sql -c "SELECT cdi_track(user_id => e.user_id, event => 'Order Completed', properties => '{\"revenue\": 19.99}', source => 'shop')
	FROM (SELECT e.user_id FROM cdi.conversion_events c JOIN cdi.events e USING (event_id) WHERE e.user_id IS NOT NULL ORDER BY e.position LIMIT 1) e" \
	-c "SELECT cdi_sync_run('customers')" >/dev/null
pushed
table -c 'SELECT queried, added, changed, removed, unchanged, invalid FROM cdi.sync_runs ORDER BY run_id DESC LIMIT 1'
expect 'rows pushed by the second run' "$(sql -c 'SELECT changed + added FROM cdi.sync_runs ORDER BY run_id DESC LIMIT 1')" 1
expect 'checksum of what the endpoint has, of the model' \
	"$(received | md5sum | cut -c1-12)" \
	"$(sql -c "SELECT person_id, email, orders, revenue FROM ($model) m ORDER BY person_id::text COLLATE \"C\"" | md5sum | cut -c1-12)"
expect 'dead letters' "$(sql -c 'SELECT count(*) FROM cdi.failed_deliveries')" 0
