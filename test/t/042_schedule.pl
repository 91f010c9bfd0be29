# Syncs that run by themselves: every so often, after another, when events
# come; and what becomes of one whose query stops working.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use FindBin;
use lib $FindBin::RealBin;
use CdiPush;

my ($node, $receiver, $port, $requests_file) = push_node('schedule', 'receiver.py', q(
restart_after_crash = on
cdi.activate_retry_delay = '20ms'
));

sub sql
{
	return $node->safe_psql('shop', $_[0]);
}

sub until_true
{
	my ($query, $what) = @_;
	ok($node->poll_query_until('shop', $query), $what) or diag(sql('SELECT name, enabled, paused_reason, schedule_seen, scheduled_at FROM cdi.syncs'));
}

sub runs
{
	my ($name, $where) = @_;
	return "(SELECT count(*) FROM cdi.sync_runs r JOIN cdi.syncs s USING (sync_id) WHERE s.name = '$name' AND " . ($where // 'true') . ')';
}

sub acknowledged
{
	my ($name, $n, $what) = @_;
	until_true("SELECT count(*) = $n FROM cdi.sync_rows r JOIN cdi.syncs s USING (sync_id) WHERE s.name = '$name'", $what);
}

sql("SELECT cdi_create_destination('hook', settings => '{\"url\": \"http://127.0.0.1:$port/ok\"}')");
sql('CREATE TABLE people (id integer PRIMARY KEY, name text); INSERT INTO people SELECT n, \'P\' FROM generate_series(1, 3) n');
sql("SELECT cdi_create_sync('often', 'hook', 'SELECT * FROM people', 'id')");
sql("SELECT cdi_create_sync('then', 'hook', 'SELECT id FROM people', 'id')");
sql(q(SELECT cdi_create_sync('events', 'hook', 'SELECT event_id::text AS id, event, position FROM cdi.events WHERE position <= cdi_watermark()', 'id', mode => 'append', change_column => 'position')));

# ---- every so often ----

# When runs begin, by the clock that they go by
sql(q(CREATE TABLE gaps (gap interval);
	CREATE FUNCTION note_gap() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN INSERT INTO public.gaps VALUES (NEW.scheduled_at - OLD.scheduled_at); RETURN NEW; END';
	CREATE TRIGGER note_gap AFTER UPDATE OF scheduled_at ON cdi.syncs FOR EACH ROW WHEN (NEW.name = 'often' AND NEW.scheduled_at > OLD.scheduled_at) EXECUTE FUNCTION note_gap()));
sql("SELECT cdi_sync_schedule('often', every => '1 second')");
acknowledged('often', 3, 'a scheduled sync runs by itself');
sql("INSERT INTO people VALUES (4, 'P')");
acknowledged('often', 4, 'and again');
until_true('SELECT count(*) > 1 FROM gaps', 'and again');
is(sql(q(SELECT min(gap) >= '1 second' FROM gaps)), 't', 'not more often than it says');
sql('DROP TRIGGER note_gap ON cdi.syncs');

# ---- after another ----

sql("SELECT cdi_sync_schedule('then', after => 'often')");
acknowledged('then', 4, 'a sync runs after another');
sql("INSERT INTO people VALUES (5, 'P')");
acknowledged('then', 5, 'each time');
is(sql(q(SELECT count(*) FROM cdi.sync_rows a JOIN cdi.syncs s ON s.sync_id = a.sync_id AND s.name = 'then'
	JOIN cdi.syncs o ON o.name = 'often' LEFT JOIN cdi.sync_rows b ON b.sync_id = o.sync_id AND b.primary_key = a.primary_key AND b.acknowledged_at <= a.acknowledged_at
	WHERE b.primary_key IS NULL)), '0', 'and no row before it was delivered by the other');

# ---- on change ----

sql("SELECT cdi_sync_schedule('events', on_change => true)");
sleep 1.5;
is(sql('SELECT ' . runs('events')), '0', 'without events it does not run');
sql("SELECT cdi_create_source('shop')");
sql("SELECT cdi_track('u1', 'Bought', source => 'shop')");
acknowledged('events', 1, 'an event makes it run');
sql("SELECT cdi_track('u' || n, 'Bought', source => 'shop') FROM generate_series(2, 20) n");
acknowledged('events', 20, 'and so do more, each of them sent once');
my $ran = sql('SELECT ' . runs('events'));
cmp_ok($ran, '<=', 4, 'not once per event');
is(sql(q(SELECT sum(queried) < 45 FROM cdi.sync_runs r JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'events')), 't', 'and it looks at what is new');
sleep 2.5;
cmp_ok(sql('SELECT ' . runs('events')), '<=', $ran + 1, 'when nothing comes it rests');

# ---- what does not work pauses, and nothing else does ----

my $offset = -s $node->logfile;
sql('ALTER TABLE people DROP COLUMN name');
sql("SELECT cdi_alter_sync('often', model => 'SELECT id, id % 2 AS odd FROM people')");
sql("SELECT cdi_create_sync('broken', 'hook', 'SELECT id, 10 / (id - 1) AS x FROM people WHERE id > 1', 'id')");
sql("SELECT cdi_sync_schedule('broken', every => '1 second')");
acknowledged('broken', 4, 'a sync that works');
sql('UPDATE people SET id = 1 WHERE false; INSERT INTO people VALUES (0)');
sql("SELECT cdi_alter_sync('broken', model => 'SELECT id, 10 / id AS x FROM people')") ;
until_true("SELECT NOT enabled AND paused_reason LIKE '%division by zero%' FROM cdi.syncs WHERE name = 'broken'", 'pauses when its query fails, and says why');
$node->wait_for_log(qr/sync "broken" pauses/, $offset);
is(sql('SELECT ' . runs('broken', "r.error LIKE '%division by zero%'")), '1', 'the run is on record');
my $failed = sql(q(SELECT max(run_id) FROM cdi.sync_runs r JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'broken'));
my $before = sql('SELECT ' . runs('often'));
until_true('SELECT ' . runs('often') . " > $before + 1", 'others go on');
sql('DELETE FROM people WHERE id = 0');
sql("SELECT cdi_sync_resume('broken')");
until_true('SELECT ' . runs('broken', "r.error IS NULL AND run_id > $failed") . ' > 0', 'once repaired it goes on');

# ---- with a run under way the database can be dropped ----

sql("SELECT cdi_create_sync('slow', 'hook', 'SELECT id, pg_sleep(100)::text AS s FROM people', 'id')");
sql("SELECT cdi_sync_schedule('slow', every => '1 second')");
until_true(q(SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'cdi sync' AND wait_event = 'PgSleep'), 'a run takes long');
acknowledged('often', 5, 'others run beside it');
$node->safe_psql('postgres', 'DROP DATABASE shop');
is($node->safe_psql('postgres', q(SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'cdi%' AND datname = 'shop')), '0', 'the database is dropped with a run under way');

$receiver->kill_kill;
$node->stop;
done_testing();
