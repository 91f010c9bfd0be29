# Vendors that answer anything, and people who change what is on its way: the
# push worker goes on, and every row ends.
use strict;
use warnings;

use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $json = JSON::PP->new->utf8;
my $port = PostgreSQL::Test::Cluster::get_free_port();
my $node = PostgreSQL::Test::Cluster->new('hostile');
$node->init;
my $requests_file = $node->basedir . '/requests.jsonl';
my $secrets = $node->basedir . '/secrets';
mkdir $secrets;
append_to_file("$secrets/client", "client-s3cret\n");
append_to_file($requests_file, '');
$node->append_conf('postgresql.conf', qq(
shared_preload_libraries = 'cdi'
fsync = off
max_worker_processes = 32
cdi.activate_retry_delay = '10ms'
cdi.activate_retry_max_delay = '50ms'
cdi.activate_retry_limit = 3
cdi.secret_directory = '$secrets'
cdi.egress_allow_private = on
));
$node->start;
my ($in, $out, $err) = ('', '', '');
my $vendor = IPC::Run::start([ 'python3', "$ENV{CDI_ROOT}/test/lib/hostile.py", $port, $requests_file ],
	'<', \$in, '>', \$out, '2>', \$err);

sub sql
{
	return $node->safe_psql('shop', $_[0]);
}

sub requests
{
	my ($path) = @_;
	return grep { $_->{path} eq $path } map { $json->decode($_) } split /\n/, slurp_file($requests_file);
}

sub push_pid
{
	return $node->safe_psql('postgres', q(SELECT pid FROM pg_stat_activity WHERE application_name = 'cdi push' AND datname = 'shop'));
}

# A destination and a sync of one action, run
sub start
{
	my ($name, $action, $model, $auth) = @_;
	my $spec = $json->encode({ '$schema' => 'cdi-dest-1', name => $name, version => '1', limits => { concurrency => 2 }, ($auth ? (auth => $auth) : ()),
			settings => { type => 'object', properties => { base => { type => 'string' }, secret => { type => 'string', secret => JSON::PP::true } } },
			actions => { a => { ops => [ 'insert', 'update' ], map => { '@path' => '$' }, %$action } } });
	my $settings = $json->encode({ base => "http://127.0.0.1:$port", ($auth ? (secret => 'file:client') : ()) });
	sql("SELECT cdi_install_destination_spec(\$json\$$spec\$json\$::jsonb)");
	sql("SELECT cdi_create_destination('$name', '$name', '$settings')");
	sql("SELECT cdi_create_sync('$name', '$name', '$model', 'id')");
	sql("SELECT cdi_sync_run('$name')");
}

sub request
{
	my ($path, %more) = @_;
	return { method => 'POST', url => "{{settings.base}}$path", body => { format => 'json', template => { '@items' => '*' } }, %more };
}

# Accepted and dead rows of a sync
sub ended
{
	my ($name, $n, $what) = @_;
	ok($node->poll_query_until('shop', qq(
		SELECT (SELECT count(*) FROM cdi.sync_rows WHERE sync_id = s.sync_id) + (SELECT count(*) FROM cdi.failed_deliveries WHERE sync_id = s.sync_id) = $n
		FROM cdi.syncs s WHERE s.name = '$name')), $what);
}

$node->safe_psql('postgres', 'CREATE DATABASE shop');
sql('CREATE EXTENSION cdi');
sql('SELECT cdi_init()');
sql('SELECT cdi_arm()');
ok($node->poll_query_until('postgres', q(SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'cdi push' AND datname = 'shop')), 'the worker is there');
my $pid = push_pid();

# ---- answers ----

start('nul', { request => request('/nul'), response => { rules => [ { when => { eq => [ 'text', 'ok' ] }, class => 'ok' }, { class => 'rejected', message => 'text' } ] } }, 'SELECT 1 AS id');
ended('nul', 1, 'an answer with a zero byte is read');
is(sql('SELECT class || error FROM cdi.failed_deliveries f JOIN cdi.syncs s USING (sync_id) WHERE s.name = $$nul$$'), 'rejectedo?k', 'as what it is');
start('random', { batch => { max_items => 2 }, request => request('/random'),
		response => { rules => [
			{ status => [200], when => { matches => [ 'text', 'x+$' ] }, class => 'ok', retry_after => ['header.X-Wait'] },
			{ status => [207], class => 'ok', rows => { each => '$.errors[*]', index => '@.index', message => '@' } },
			{ status => [400], class => 'rejected', split => JSON::PP::true, message => 'header.X-Error', rows => [ { each => '$', index => '@.index' }, { each => '$[*][*]', match => { value => '@', to => 'mapped.id' } } ] },
			{ status => [422], when => { eq => [ 'header.X-Error', 'x' ] }, class => 'rejected' },
			{ status => [422], class => 'rejected', message => 'text' } ] } }, 'SELECT n AS id FROM generate_series(1, 150) n');
ended('random', 150, 'whatever the answers, every row ends');
start('table', { batch => { max_items => 2 }, request => request('/random'),
		response => { format => 'csv', rules => [ { class => 'ok', rows => { each => '$', match => { value => '@.x', to => 'mapped.id' } } } ] } }, 'SELECT n AS id FROM generate_series(1, 40) n');
ended('table', 40, 'also where they are read as tables');
is(push_pid(), $pid, 'and the worker is the same');

# ---- stages ----

start('skipped', { steps => [ { name => 'never', request => request('/fine', when => { eq => [ 'settings.base', 'x' ] }) } ], request => request('/fail') }, 'SELECT 1 AS id');
ended('skipped', 1, 'a row whose first stage is passed over is not tried for ever');
is(scalar(requests('/fail')), 3, 'but as often as any');
my $busy = { batch => { max_items => 5 }, request => { method => 'POST', url => '{{settings.base}}/fine?job' },
	then => [ { name => 'wait', request => { method => 'GET', url => '{{settings.base}}/busy' }, poll => { every => '50ms', until => { eq => [ '$.state', 'done' ] } } } ] };
start('busy', $busy, 'SELECT 1 AS id');
ok($node->poll_query_until('shop', q(SELECT count(*) > 3 FROM cdi.deliveries d JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'busy')), 'a job is asked about');
is((requests('/fine?job'))[0]{headers}{'Content-Length'}, '0', 'a POST of nothing says so');
is(sql(q(SELECT max(attempt) FROM cdi.deliveries d JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'busy')), '1', 'which is one attempt, however often');
sql(q(SELECT cdi_install_destination_spec('{"$schema": "cdi-dest-1", "name": "busy", "version": "2", "settings": {"type": "object", "properties": {"base": {"type": "string"}}},
	"actions": {"a": {"ops": ["insert", "update"], "map": {"@path": "$"}, "request": {"method": "POST", "url": "{{settings.base}}/fine?two", "body": {"format": "ndjson"}}}}}')));
sql(qq(SELECT cdi_alter_destination('busy', '{"base": "http://127.0.0.1:$port"}', 'busy\@2')));
ended('busy', 1, 'a specification without the stage that a row was at begins with its first');
is(scalar(requests('/fine?two')), 1, 'once');

# ---- a token comes when nobody wants it any more ----

start('token', { request => request('/fine?token') }, 'SELECT 1 AS id',
	{ type => 'oauth2', grant => 'client_credentials', token_url => '{{settings.base}}/token', client_id => 'us', client_secret => '{{secret.secret}}' });
sleep(0.1) until requests('/token');
sql(q(SELECT cdi_drop_sync('token'), cdi_drop_destination('token')));
sql(q(SELECT cdi_sync_run('nul')));
sleep(2.5);
is(push_pid(), $pid, 'the worker has outlived it');

# ---- begun anew while requests are in flight ----

start('reset', { request => request('/token?reset') }, 'SELECT n AS id FROM generate_series(1, 50) n');
sleep(0.1) until requests('/token?reset');
sql(q(SELECT cdi_sync_reset('reset')));
sleep(5);
cmp_ok(scalar(requests('/token?reset')), '<=', 3, 'what was queued before a reset is not sent after it');
sql(q(SELECT cdi_alter_sync('reset', model => 'SELECT 51 AS id', mode => 'upsert'), cdi_sync_run('reset')));
ok($node->poll_query_until('shop', q(SELECT count(*) = 1 FROM cdi.sync_rows r JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'reset' AND r.primary_key = '51')), 'what comes then is');

# ---- schedules ----

start('first', { request => request('/fine') }, 'SELECT 1 AS id');
ended('first', 1, 'a sync has run');
start('second', { request => request('/fine') }, 'SELECT n AS id FROM generate_series(1, (SELECT count(*)::int FROM cdi.sync_rows)) n');
sql(q(SELECT cdi_sync_schedule('second', after => 'first')));
sleep(1);
my $before = sql(q(SELECT count(*) FROM cdi.sync_runs r JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'second'));
sql(q(SELECT cdi_sync_run('first', everything => true)));
ok($node->poll_query_until('shop', qq(SELECT count(*) = $before + 1 FROM cdi.sync_runs r JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'second')), 'another follows once it is delivered, though nothing else happens');
sql(q(SELECT cdi_sync_schedule('second', every => '300000 years')));
sleep(2);
is(sql(qq(SELECT count(*) - $before FROM cdi.sync_runs r JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'second')), '2', 'a time beyond all times does not come again and again');

# ---- why ----

sql(q(SET session_replication_role = replica; DELETE FROM cdi.destination_specs WHERE name = 'first'));
sql(qq(UPDATE cdi.destinations SET settings = settings WHERE name = 'first'; SELECT cdi_alter_sync('nul', mode => 'upsert')));
ok($node->poll_query_until('shop', q(SELECT count(*) = 1 FROM cdi.destination_pauses p JOIN cdi.destinations d USING (destination_id) WHERE d.name = 'first' AND p.reason LIKE '%is gone%')), 'a destination that cannot be used says why');

# ---- idle ----

sub cpu
{
	my @stat = split / /, slurp_file("/proc/$pid/stat");
	return $stat[13] + $stat[14];
}
sleep(2);
my $ticks = cpu();
sleep(4);
cmp_ok(cpu() - $ticks, '<=', 8, 'and the worker rests');

$vendor->kill_kill;
$node->stop;
done_testing();
