# Transactions that users leave open hold up what they have changed, and nothing
# else: other syncs are sent, recorded and run meanwhile, and people can see
# what waits.
use strict;
use warnings;

use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use FindBin;
use lib $FindBin::RealBin;
use CdiPush;

my $json = JSON::PP->new->utf8;
my ($node, $receiver, $port, $requests_file) = push_node('locks', 'receiver.py', q(
max_prepared_transactions = 2
cdi.activate_retry_delay = '20ms'
cdi.activate_retry_max_delay = '200ms'
cdi.activate_retry_limit = 1000
));

sub sql
{
	return $node->safe_psql('shop', $_[0]);
}

sub eventually
{
	my ($query, $what) = @_;
	ok($node->poll_query_until('shop', $query), $what)
		or diag(sql('TABLE cdi.push_waits'), "\n", sql('TABLE cdi.destination_pauses'), "\n",
			sql(q(SELECT name, class, status, d.error, sent_at FROM cdi.deliveries d LEFT JOIN cdi.syncs USING (sync_id) ORDER BY sent_at DESC LIMIT 5)), "\n",
			sql(q(SELECT name, r.error, started_at FROM cdi.sync_runs r LEFT JOIN cdi.syncs USING (sync_id) ORDER BY run_id DESC LIMIT 5)));
}

sub sync
{
	my ($name, $path) = @_;
	sql(qq(SELECT cdi_create_destination('$name', settings => '{"url": "http://127.0.0.1:$port/$path", "batch_size": 10}')));
	sql(qq(SELECT cdi_create_sync('$name', '$name', 'SELECT * FROM customers', 'id')));
	sql(qq(SELECT cdi_sync_run('$name')));
}

sub version
{
	my ($name) = @_;
	return qq(FROM cdi.sync_rows r JOIN cdi.syncs s USING (sync_id), (SELECT max(version) AS version FROM customers) c WHERE s.name = '$name' AND r.payload ->> 'version' = c.version::text);
}

sub arrived
{
	my ($path) = @_;
	return map { @{ $json->decode($_->{body}) } } grep { $_->{path} eq "/$path" } received($requests_file);
}

sql('CREATE TABLE customers (id integer, version integer); INSERT INTO customers SELECT n, 1 FROM generate_series(1, 20) n');
sync($_, "ok/$_") for qw(one two);
eventually("SELECT count(*) = 20 @{[version($_)]}", "$_: sent") for qw(one two);
my $pid = sql(q(SELECT pid FROM pg_stat_activity WHERE application_name = 'cdi push' AND datname = 'shop'));

# ---- what a user's transaction has changed of a sync ----

for my $case ([ 'cdi_drop_sync', q(SELECT cdi_drop_sync('one')) ], [ 'cdi_sync_reset', q(SELECT cdi_sync_reset('one')) ],
	[ 'DELETE of what is acknowledged', q(DELETE FROM cdi.sync_rows) ])
{
	my ($what, $statement) = @$case;
	my $before = arrived('ok/one');
	my $session = $node->background_psql('shop');
	my $holder = $session->query_safe('SELECT pg_backend_pid()');

	sql('UPDATE customers SET version = version + 1');
	sql(q(SELECT cdi_sync_run('one'), cdi_disable_destination('one')));
	$session->query_safe("BEGIN; $statement");
	sql(q(SELECT cdi_enable_destination('one')));
	eventually(q(SELECT count(*) = 1 FROM cdi.push_waits JOIN cdi.syncs USING (sync_id) WHERE name = 'one'), "$what, not committed: its sync waits");
	like(sql('SELECT reason FROM cdi.push_waits'), qr/still open: .*process $holder\b/, "$what: for whom can be seen");
	is(sql(q(SELECT count(*) FROM cdi_bi.sync_health WHERE sync = 'one' AND paused_reason LIKE 'another transaction%')), '1', "$what: in the view of syncs, too");
	if ($what !~ /^DELETE/)
	{
		sql(q(SELECT cdi_sync_run('two')));
		eventually("SELECT count(*) = 20 @{[version('two')]}", "$what: another sync is recorded meanwhile");
		is(sql('SELECT count(*) FROM cdi.push_waits'), '1', "$what: and waits for nothing");
	}
	is(sql(q(SELECT count(*) FROM pg_stat_activity WHERE application_name = 'cdi push' AND (xact_start < now() - interval '5 s'))), '0', "$what: no transaction of the worker stays open");
	eventually(q(SELECT in_flight_requests = 0 FROM cdi.stat_destinations WHERE destination = 'one'), "$what: all has been answered");
	my $sent = arrived('ok/one');
	sleep 0.5;
	is(scalar(arrived('ok/one')), $sent, "$what: nothing more is sent of which nothing could be recorded");
	$session->query_safe('ROLLBACK');
	$session->quit;
	eventually("SELECT count(*) = 20 @{[version('one')]}", "$what, rolled back: the sync goes on");
	eventually('SELECT count(*) = 0 FROM cdi.push_waits', "$what: and waits no more");
	is(scalar(arrived('ok/one')), $before + 20, "$what: each row was sent once");
	sql(q(SELECT cdi_sync_run('two')));
	eventually("SELECT count(*) = 20 @{[version('two')]}", "$what: all is well");
}
my $log = slurp_file($node->logfile);
is(scalar(() = $log =~ /WARNING: .*sync "one" waits/g), 3, 'the log says so once each time');
unlike($log, qr/sync "two" waits|canceling statement due to lock timeout/, 'and no more');

sql('UPDATE customers SET version = version + 1');
sql(q(SELECT cdi_sync_run('one'), cdi_disable_destination('one')));
sql(q(BEGIN; SELECT cdi_drop_sync('one'); PREPARE TRANSACTION 'drop'));
sql(q(SELECT cdi_enable_destination('one')));
eventually(q(SELECT count(*) = 1 FROM cdi.push_waits WHERE reason LIKE '%a prepared transaction%'), 'a prepared transaction');
sql(q(COMMIT PREPARED 'drop'));
eventually('SELECT count(*) = 0 FROM cdi.push_waits', 'dropped after all: nothing waits');
eventually('SELECT count(*) = 0 FROM cdi.sync_rows r WHERE NOT EXISTS (SELECT FROM cdi.syncs s WHERE s.sync_id = r.sync_id)', 'and nothing of it is left');
is(sql('SELECT count(*) FROM cdi.push_cursor c WHERE NOT EXISTS (SELECT FROM cdi.syncs s WHERE s.sync_id = c.sync_id)'), '0', 'nowhere');

# ---- why destinations pause ----

sync('failing', 'fail/a');
eventually(q(SELECT count(*) = 1 FROM cdi.destination_pauses), 'a destination that fails');
my $session = $node->background_psql('shop');
$session->query_safe(q(BEGIN; SELECT cdi_drop_sync('failing'), cdi_drop_destination('failing')));
sql('UPDATE customers SET version = version + 1');
sql(q(SELECT cdi_sync_run('two')));
eventually("SELECT count(*) = 20 @{[version('two')]}", 'is dropped, not committed: others are sent');
$session->query_safe('ROLLBACK');
$session->quit;
eventually(q(SELECT count(*) = 1 FROM cdi.destination_pauses WHERE next_try_at > now()), 'rolled back: its pauses are recorded again');
sql(q(SELECT cdi_drop_sync('failing'), cdi_drop_destination('failing')));

# ---- runs by a schedule ----

sql('CREATE TABLE stock (id integer); INSERT INTO stock VALUES (1)');
sql(qq(SELECT cdi_create_sync('$_', 'two', 'SELECT 1 AS id', 'id'))) for qw(a b c);
sql(q(SELECT cdi_create_sync('d', 'two', 'SELECT * FROM stock', 'id')));
sql(q(SELECT cdi_create_sync('free', 'two', 'SELECT 1 AS id', 'id')));
sql(q(SELECT cdi_sync_schedule('c', every => '1 s')));
$session = $node->background_psql('shop');
$session->query_safe(q(BEGIN; SELECT cdi_sync_run('a'), cdi_sync_run('b'), cdi_sync_pause('c')));
sql(qq(SELECT cdi_sync_schedule('$_', every => '1 s'))) for qw(a b);
my $table = $node->background_psql('shop');
$table->query_safe(q(BEGIN; LOCK TABLE stock));
sql(q(SELECT cdi_sync_schedule('d', every => '1 s'), cdi_sync_schedule('free', every => '1 s')));
eventually(q(SELECT count(*) > 1 FROM cdi.sync_runs JOIN cdi.syncs USING (sync_id) WHERE name = 'free' AND error IS NULL), 'others run by their schedule while syncs are held');
eventually(q(SELECT count(DISTINCT name) = 4 FROM cdi.sync_runs JOIN cdi.syncs USING (sync_id) WHERE name IN ('a', 'b', 'c', 'd') AND error LIKE 'another transaction%'), 'for which it is on record');
is(sql(q(SELECT bool_and(enabled) FROM cdi.syncs WHERE name IN ('a', 'b'))), 't', 'and no reason to pause');
$session->query_safe('COMMIT');
$table->query_safe('ROLLBACK');
$_->quit for $session, $table;
eventually(q(SELECT count(DISTINCT name) = 2 FROM cdi.sync_runs r JOIN cdi.syncs USING (sync_id) WHERE name IN ('a', 'b') AND error IS NULL AND run_id > (SELECT max(run_id) FROM cdi.sync_runs WHERE error IS NOT NULL)), 'in the end they run');

is(sql(q(SELECT pid FROM pg_stat_activity WHERE application_name = 'cdi push' AND datname = 'shop')), $pid, 'the worker is the one that it was');
$receiver->kill_kill;
$node->stop;
done_testing();
