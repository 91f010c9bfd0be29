# Activation on a standby, when it is promoted, and in transactions that must not
# write or see no later: clear errors, no worker, nothing sent twice.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

use FindBin;
use lib $FindBin::RealBin;
use CdiPush;

my $port = PostgreSQL::Test::Cluster::get_free_port();
my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 1);
my $requests_file = $primary->basedir . '/requests.jsonl';
append_to_file($requests_file, '');
$primary->append_conf('postgresql.conf', q(
shared_preload_libraries = 'cdi'
fsync = off
max_worker_processes = 32
cdi.egress_allow_private = on
));
$primary->start;
my $receiver = start_receiver('receiver.py', $port, $requests_file);

sub sent
{
	my ($path) = @_;
	return scalar grep { index($_, qq("path": "$path")) >= 0 } split /\n/, slurp_file($requests_file);
}

sub fails
{
	my ($node, $statement, $expected, $what) = @_;
	my ($code, $stdout, $stderr) = $node->psql('shop', $statement);
	is(($stderr =~ /^psql:\S+ (ERROR: .*)$/m)[0], "ERROR:  $expected", $what // $statement);
}

$primary->safe_psql('postgres', 'CREATE DATABASE shop');
$primary->safe_psql('shop', qq(
	CREATE EXTENSION cdi; SELECT cdi_init(); SELECT cdi_arm();
	CREATE TABLE people AS SELECT n AS id FROM generate_series(1, 10) n;
	SELECT cdi_create_destination('crm', settings => '{"url": "http://127.0.0.1:$port/ok/crm"}');
	SELECT cdi_create_sync('people', 'crm', 'SELECT * FROM people', 'id');
	SELECT cdi_create_event_stream('events', 'crm');
	SELECT cdi_sync_run('people');));
ok($primary->poll_query_until('shop', 'SELECT count(*) = 10 FROM cdi.sync_rows'), 'the primary pushes');
my $before = sent('/ok/crm');

# ---- transactions ----

my $read_only = 'BEGIN READ ONLY; SELECT';
fails($primary, "$read_only cdi_sync_run('people')", 'cannot execute INSERT in a read-only transaction', 'a run in a read-only transaction');
fails($primary, "BEGIN ISOLATION LEVEL $_; SELECT cdi_sync_run('people')", 'cdi_sync_run() needs isolation level read committed', "a run in a $_ transaction") for 'SERIALIZABLE', 'REPEATABLE READ';
is($primary->safe_psql('shop', "BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT destination FROM cdi.stat_destinations; SELECT count(*) FROM cdi.stat_event_streams; COMMIT"), "crm\n1", 'views in a serializable transaction');
is($primary->safe_psql('shop', "BEGIN ISOLATION LEVEL SERIALIZABLE; UPDATE people SET id = 11 WHERE id = 1; SELECT cdi_sync_pause('people'); ROLLBACK; SELECT enabled FROM cdi.syncs WHERE name = 'people'"), "\nt", 'a pause that is rolled back');

# ---- a standby ----

$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;
$primary->wait_for_catchup($standby);
is($standby->safe_psql('shop', q(SELECT destination, requests, waiting, in_flight_requests FROM cdi.stat_destinations)), 'crm|1|0|0', 'its views say what the primary has done');
is($standby->safe_psql('shop', q(SELECT stream FROM cdi.stat_event_streams)), 'events', 'of streams, too');
is($standby->safe_psql('shop', q(SELECT count(*) FROM cdi_bi.sync_health)), '1', 'and in schema cdi_bi');
is($standby->safe_psql('shop', 'SELECT cdi_armed()'), 'copy', 'it is no database that pushes');
is($standby->safe_psql('shop', q(SELECT cdi_check_destination_spec(spec) > 0 FROM cdi.destination_specs WHERE name = 'webhook')), 't', 'what writes nothing works');
for my $call (q(cdi_create_destination('x')), q(cdi_alter_destination('crm', '{}')), q(cdi_drop_destination('crm')), q(cdi_enable_destination('crm')), q(cdi_disable_destination('crm')),
	q(cdi_create_sync('x', 'crm', 'SELECT 1 AS id', 'id')), q(cdi_alter_sync('people')), q(cdi_drop_sync('people')), q(cdi_sync_run('people')), q(cdi_sync_test_row('people', '1')),
	q(cdi_sync_preview('people')), q(cdi_sync_pause('people')), q(cdi_sync_resume('people')), q(cdi_sync_reset('people')), q(cdi_sync_schedule('people')),
	q(cdi_create_event_stream('x', 'crm')), q(cdi_alter_event_stream('events')), q(cdi_replay_delivery()), q(cdi_arm()), q(cdi_disarm()),
	q(cdi_install_destination_spec('{}')))
{
	my ($name) = $call =~ /^(\w+)/;
	fails($standby, "SELECT $call", "cannot execute $name() during recovery");
}

# ---- promotion ----

$primary->stop('immediate');
$standby->promote;
ok($standby->poll_query_until('shop', q(SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'cdi push' AND datname = 'shop')), 'promoted, it has a push worker');
$standby->safe_psql('shop', q(INSERT INTO people VALUES (12); SELECT cdi_sync_run('people')));
ok($standby->poll_query_until('shop', q(SELECT count(*) = 1 FROM cdi.outbox o JOIN cdi.push_cursor c USING (sync_id) WHERE o.position > c.position)), 'what is queued');
ok(wait_until(sub { slurp_file($standby->logfile) =~ /this database is a copy of one that was armed/ }), 'waits, as the log says');
is(sent('/ok/crm'), $before, 'until somebody says that it takes the place of the primary');
fails($standby, 'SELECT cdi_arm()', 'this database is a copy of one that was armed', 'cdi_arm() asks');
$standby->safe_psql('shop', 'SELECT cdi_arm(trust => true)');
ok($standby->poll_query_until('shop', 'SELECT count(*) = 11 FROM cdi.sync_rows'), 'it goes on');
is(sent('/ok/crm'), $before + 1, 'with what is new');

$receiver->kill_kill;
$standby->stop;
done_testing();
