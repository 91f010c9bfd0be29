# Workers start where they are wanted, come back when they end, and keep out of
# the way of commands that need a database for themselves.
use strict;
use warnings;

use Cwd qw(abs_path);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

use FindBin;
use lib $FindBin::RealBin;
use CdiWait;

my $node = PostgreSQL::Test::Cluster->new('workers');
$node->init;
$node->append_conf('postgresql.conf', q(
fsync = off
shared_preload_libraries = 'cdi'
max_worker_processes = 32
max_prepared_transactions = 2
# the test of an idle system looks at the WAL position
wal_level = minimal
max_wal_senders = 0
autovacuum = off
checkpoint_timeout = 1h
restart_after_crash = on
));
$node->start;

sub keepers
{
	my ($database) = @_;
	return "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'cdi keeper' AND datname = '$database'";
}

# Pid of a database's keeper, once it runs and is idle; of another one than the
# old one, where that is given.
sub keeper
{
	my ($database, $old) = @_;
	my $query = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'cdi keeper' AND datname = '$database' AND state = 'idle'"
	  . ($old ? " AND pid <> $old" : '');

	return wait_until(sub { try_sql($node, 'postgres', $query) });
}

sub no_keeper
{
	my ($database, $name) = @_;
	ok($node->poll_query_until('postgres', keepers($database), '0'), $name);
}

sub another_keeper
{
	my ($database, $old, $name) = @_;
	my $new = keeper($database, $old);
	ok($new, $name);
	return $new;
}

sub same_keeper
{
	my ($database, $old, $name) = @_;
	usleep(300_000);
	is($node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'cdi keeper' AND datname = '$database'"), $old, $name);
}

sub watermark_reaches
{
	my ($position, $name) = @_;
	my $start = time;

	ok($node->poll_query_until('shop', "SELECT cdi_watermark() >= $position"), $name);
	# The safety timer would be a minute late.
	cmp_ok(time - $start, '<', 30, "$name: by a wake-up");
}

sub last_position
{
	return $node->safe_psql('shop', 'SELECT last_value FROM cdi.event_position');
}

# Where they start

$node->safe_psql('postgres', "CREATE DATABASE $_") for 'shop', 'other';
$node->safe_psql('other', 'CREATE EXTENSION cdi');
$node->safe_psql('shop', 'CREATE EXTENSION cdi; SELECT cdi_init()');
my $pid = keeper('shop');
ok($pid, 'cdi_init() starts the keeper');
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'cdi %' AND datname IS DISTINCT FROM 'shop' AND backend_type <> 'cdi launcher'"),
	'0', 'no worker runs where cdi_init() was not called');
is($node->safe_psql('shop', "SELECT application_name FROM pg_stat_activity WHERE pid = $pid"), 'cdi keeper', 'activity shows what it is');
is($node->safe_psql('shop', q(SELECT state, pid, database, failures FROM cdi.workers WHERE kind = 'keeper')), "running|$pid|shop|0", 'cdi.workers shows it');
is($node->safe_psql('shop', q(SELECT state FROM cdi.workers WHERE kind = 'collector')), 'off', 'a collector without a port is off');

# Waking

$node->safe_psql('shop', q(SELECT cdi_identify('u1', '{"email": "u1@example.com"}', anonymous_id => 'a1')));
watermark_reaches(last_position(), 'a commit moves the watermark');
ok($node->poll_query_until('shop', q(SELECT identifiers = 3 FROM cdi.persons)), 'and resolves identities');

# Commits of many links, 20 ms apart; and, however slow the resolver is, one after it
sub many_links
{
	my ($number) = @_;
	return qq(SELECT * FROM cdi_ingest((SELECT jsonb_agg(jsonb_build_object('type', 'track', 'event', 'Linked', 'messageId', format('m$number-%s', i),
		'userId', format('w$number-%s', i), 'anonymousId', format('b$number-%s', i))) FROM generate_series(1, 200) AS i), 'sql');\n);
}
$node->safe_psql('shop', join('', map { 'SELECT pg_sleep(0.02);' . many_links($_) } 1 .. 10));
ok($node->poll_query_until('shop', q(SELECT sum(links) = 2001 FROM cdi.identity_runs)), 'links that come during a pause of the resolver are folded after it');
$node->safe_psql('shop', many_links(11));
ok($node->poll_query_until('shop', q(SELECT sum(links) = 2201 FROM cdi.identity_runs)), 'and so are later ones');
is($node->safe_psql('shop', q(
	SELECT count(*) > 0 AND min(resolved_at - before) >= '50 ms' FROM (
		SELECT resolved_at, lag(resolved_at) OVER (ORDER BY run) AS before, lag(links) OVER (ORDER BY run) AS found FROM cdi.identity_runs) r
	WHERE found >= 100)), 't', 'which is 50 ms after a run with many');

my $holder = $node->background_psql('shop');
$holder->query_safe('BEGIN');
$holder->query_safe(q(SELECT cdi_track('u1', 'Held')));
my $before = last_position() - 1;
$node->safe_psql('shop', q(SELECT cdi_track('u2', 'Free')));
is($node->safe_psql('shop', 'SELECT cdi_advance_watermark()'), $before, 'an open transaction holds the watermark back');
$holder->query_safe('ROLLBACK');
watermark_reaches(last_position(), 'its abort lets it go');

$holder->query_safe('BEGIN');
$holder->query_safe(q(SELECT cdi_track('u1', 'Prepared')));
$holder->query_safe(q(PREPARE TRANSACTION 'p'));
$node->safe_psql('shop', q(SELECT cdi_track('u2', 'Free')));
is($node->safe_psql('shop', 'SELECT cdi_advance_watermark()'), $before + 2, 'a prepared transaction holds the watermark back');
$node->safe_psql('shop', q(COMMIT PREPARED 'p'));
watermark_reaches(last_position(), 'its commit lets it go');
$holder->quit;

$node->safe_psql('shop', q(SELECT * FROM cdi_ingest('[{"type": "track", "event": "Old", "userId": "u1", "messageId": "old", "receivedAt": "2020-02-03T00:00:00Z"}]', 'sql', history => true)));
ok($node->poll_query_until('shop', 'SELECT NOT EXISTS (SELECT FROM cdi.events_default)'), 'the default partition does not keep rows');

my $script = $node->basedir . '/track.sql';
append_to_file($script, q(SELECT cdi_track('u1', 'Counted')) . ";\n");
$node->command_ok([ 'pgbench', '-n', '-c', '2', '-t', '750', '-f', $script, 'shop' ], 'a load of events');
ok($node->poll_query_until('shop', 'SELECT count(*) < 600 FROM cdi.pipeline_deltas'), 'counters are compacted');
is($node->safe_psql('shop', 'SELECT sum(received) = sum(stored + duplicate + failed + withheld) AND sum(stored) = (SELECT count(*) FROM cdi.events) FROM cdi.pipeline_counts'),
	't', 'and their sum stays true');

# Coming back

$pid = keeper('shop');
for my $wait (1, 2)
{
	my $start = $node->safe_psql('shop', 'SELECT clock_timestamp()');
	$node->safe_psql('shop', "SELECT pg_terminate_backend($pid)");
	$pid = another_keeper('shop', $pid, "restarted after termination $wait");
	is($node->safe_psql('shop', "SELECT started_at - '$start' >= '$wait s', failures, last_error LIKE 'terminating%' FROM cdi.workers WHERE kind = 'keeper'"),
		"t|$wait|t", "after $wait s");
}
my $launcher = $node->safe_psql('shop', q(SELECT pid FROM cdi.workers WHERE kind = 'launcher'));
$node->safe_psql('shop', "SELECT pg_terminate_backend($launcher)");
ok($node->poll_query_until('shop', "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $launcher"), 'the launcher can be terminated');
ok($node->poll_query_until('shop', "SELECT state = 'running' AND pid <> $launcher FROM cdi.workers WHERE kind = 'launcher'"), 'and comes back');
same_keeper('shop', $pid, 'which leaves workers alone');

# Settings

$node->safe_psql('postgres', q(ALTER DATABASE shop SET cdi.ingest_dedupe_window = '20d'));
$pid = another_keeper('shop', $pid, 'a setting of the database restarts its workers');
$node->safe_psql('postgres', 'ALTER DATABASE shop SET cdi.enabled = off');
no_keeper('shop', 'cdi.enabled = off ends them');
$node->safe_psql('postgres', 'ALTER DATABASE shop SET cdi.enabled = on');
$pid = keeper('shop');
ok($pid, 'cdi.enabled = on starts them');

my $port = PostgreSQL::Test::Cluster::get_free_port();
my $collector = q(SELECT state FROM cdi.workers WHERE kind = 'collector');
$node->safe_psql('postgres', "ALTER DATABASE shop SET cdi.collector_port = $port");
ok($node->poll_query_until('shop', $collector, 'running'), 'a port starts the collector');
$node->safe_psql('postgres', 'ALTER DATABASE shop RESET cdi.collector_port');
ok($node->poll_query_until('shop', $collector, 'off'), 'no port ends it');
$pid = keeper('shop');

# Commands that need the database for themselves, and who may not give them

$node->safe_psql('postgres', 'CREATE ROLE nobody LOGIN; CREATE ROLE maker LOGIN CREATEDB');
for my $command ('DROP DATABASE shop', 'ALTER DATABASE shop RENAME TO mine', 'ALTER DATABASE shop SET TABLESPACE pg_default', 'CREATE DATABASE mine TEMPLATE shop')
{
	for my $role ('nobody', 'maker')
	{
		my (undef, undef, $stderr) = $node->psql('postgres', $command, extra_params => [ '-U', $role ]);
		like($stderr, qr/permission denied|must be owner/, "$role: $command");
	}
}
same_keeper('shop', $pid, 'the worker did not notice');

sub quickly
{
	my ($command) = @_;
	my $start = time;

	$node->safe_psql('postgres', $command);
	# Who waits for a process that does not end waits for a safety timer, of a minute.
	cmp_ok(time - $start, '<', 30, "$command: at once");
}

quickly('CREATE DATABASE copy TEMPLATE shop');
$pid = another_keeper('shop', $pid, 'the original has workers again');
is($node->safe_psql('postgres', keepers('copy')), '0', 'the copy has none');
quickly('ALTER DATABASE shop RENAME TO store');
$pid = another_keeper('store', $pid, 'workers follow a new name');
ok($node->poll_query_until('store', q(SELECT database = 'store' FROM cdi.workers WHERE kind = 'keeper')), 'and know it');
my $space = abs_path($node->basedir) . '/space';
mkdir $space;
$node->safe_psql('postgres', "CREATE TABLESPACE space LOCATION '$space'");
quickly('ALTER DATABASE store SET TABLESPACE space');
$pid = another_keeper('store', $pid, 'workers follow to another tablespace');
$node->safe_psql('copy', 'SELECT cdi_init()');
ok(keeper('copy'), 'cdi_init() starts workers in the copy');
quickly('DROP DATABASE copy');
is($node->safe_psql('postgres', q(SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'cdi %' AND datname IS DISTINCT FROM 'store' AND backend_type <> 'cdi launcher')), '0', 'nothing is left');
same_keeper('store', $pid, 'and others go on');

# The extension goes while its workers run

$node->safe_psql('other', 'SELECT cdi_init()');
$pid = keeper('other');
my (undef, undef, $stderr) = $node->psql('other', 'DROP EXTENSION cdi');
like($stderr, qr/other objects depend on it/, 'DROP EXTENSION refuses while there is data');
same_keeper('other', $pid, 'and does not disturb');
$node->safe_psql('other', q(SELECT cdi_drop_data('other')));
no_keeper('other', 'cdi_drop_data() ends the workers');
$node->safe_psql('other', 'SELECT cdi_init()');
ok(keeper('other'), 'cdi_init() starts them again');
$node->safe_psql('postgres', "ALTER DATABASE other SET cdi.collector_port = $port");
ok($node->poll_query_until('other', $collector, 'running'), 'a collector, too');
ok(keeper('other'), 'beside the keeper');
$node->safe_psql('other', 'SET client_min_messages = warning; DROP EXTENSION cdi CASCADE');
ok($node->poll_query_until('postgres', q(SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'cdi %' AND datname = 'other'), '0'),
	'DROP EXTENSION CASCADE ends all of them');
$node->safe_psql('other', 'CREATE EXTENSION cdi; SELECT cdi_init()');
ok(keeper('other'), 'and a new extension starts them');

# Nothing to do

$node->safe_psql('postgres', 'CHECKPOINT');
sub traces
{
	return $node->safe_psql('postgres',
		q(SELECT pg_current_wal_insert_lsn(), sum(xact_commit + xact_rollback) FROM pg_stat_database WHERE datname IS DISTINCT FROM 'postgres'));
}
my ($last, $same) = ('', 0);
wait_until(sub {
	my $now = traces();
	$same = $now eq $last ? $same + 1 : 0;
	$last = $now;
	sleep 1;
	return $same >= 3;
});
my $idle = traces();
sleep 8;
is(traces(), $idle, 'an idle system runs no transaction and writes no WAL');

# A worker is killed: the server restarts everything

my $events = $node->safe_psql('store', 'SELECT count(*) FROM cdi.events');
my $stored = $node->safe_psql('store', q(SELECT sum(stored) FROM cdi.pipeline_counts));
$pid = crash($node, q(SELECT pid FROM pg_stat_activity WHERE backend_type = 'cdi keeper' AND datname = 'store'));
$pid = another_keeper('store', $pid, 'workers are back after a crash');
ok(keeper('other'), 'in every database');
is($node->safe_psql('store', 'SELECT count(*) FROM cdi.events'), $events, 'with all events');
is($node->safe_psql('store', q(SELECT sum(stored) FROM cdi.pipeline_counts)), $stored, 'and counts');
$node->stop;

# A standby has workers when it is promoted, not before

my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 1);
$primary->append_conf('postgresql.conf', "fsync = off\nshared_preload_libraries = 'cdi'\n");
$primary->start;
$primary->safe_psql('postgres', q(CREATE EXTENSION cdi; SELECT cdi_init(); SELECT cdi_track('u1', 'Replicated')));
$primary->backup('base');
$node = PostgreSQL::Test::Cluster->new('standby');
$node->init_from_backup($primary, 'base', has_streaming => 1);
$node->start;
$primary->wait_for_catchup($node, 'replay', $primary->lsn('insert'));
is($node->safe_psql('postgres', q(SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'cdi %')), '0', 'a standby runs no worker');
(undef, undef, $stderr) = $node->psql('postgres', q(SELECT cdi_track('u1', 'Refused')));
like($stderr, qr/recovery|read-only/, 'and takes no event');
$primary->stop;
$node->promote;
ok(keeper('postgres'), 'promotion starts the workers');
my $position = $node->safe_psql('postgres', q(SELECT cdi_track('u2', 'Taken'); SELECT last_value FROM cdi.event_position)) =~ s/.*\n//r;
ok($node->poll_query_until('postgres', "SELECT cdi_watermark() >= $position"), 'and they work');
$node->stop;

done_testing();
