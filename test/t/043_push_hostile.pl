# Vendors that answer anything, and people who change what is on its way: the
# push worker goes on, and every row ends.
use strict;
use warnings;

use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

use FindBin;
use lib $FindBin::RealBin;
use CdiPush;

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
# Memory that was freed reads as something else from then on.
{
	local $ENV{MALLOC_PERTURB_} = 165;
	$node->start;
}
my $vendor = start_receiver('hostile.py', $port, $requests_file);

sub sql
{
	return $node->safe_psql('shop', $_[0]);
}

sub requests
{
	my ($path) = @_;
	return grep { $_->{path} eq $path } received($requests_file);
}

# The receiver answers requests of this kind from now on.
sub answer { append_to_file("$requests_file.$_[0]", ''); }

# A destination and a sync of one action, run
sub start
{
	my ($name, $action, $model, $auth, %more) = @_;
	my $spec = $json->encode({ '$schema' => 'cdi-dest-1', name => $name, version => '1', limits => { concurrency => 2 }, ($auth ? (auth => $auth) : ()),
			settings => { type => 'object', properties => { base => { type => 'string' }, secret => { type => 'string', secret => JSON::PP::true } } },
			%more, actions => { a => { ops => [ 'insert', 'update' ], map => { '@path' => '$' }, %$action } } });
	my $settings = $json->encode({ base => "http://127.0.0.1:$port", ($auth ? (secret => 'file:client') : ()) });
	sql("SELECT cdi_install_destination_spec(\$json\$$spec\$json\$::jsonb)");
	sql("SELECT cdi_create_destination('$name', '$name', '$settings')");
	sql("SELECT cdi_create_sync('$name', '$name', '$model', 'id')");
	sql("SELECT cdi_sync_run('$name')");
}

sub request
{
	my ($path, %more) = @_;
	return { method => 'POST', url => "{{settings.base}}$path", timeout => '10min', body => { format => 'json', template => { '@items' => '*' } }, %more };
}

# Of the worker, in ticks of 10 ms
sub cpu
{
	my @stat = split / /, slurp_file("/proc/@{[ push_pid($node) ]}/stat");
	return $stat[13] + $stat[14];
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
my $pid = push_pid($node);

# ---- the first answer of a host takes long ----

start('late', { request => request('/late') }, 'SELECT 1 AS id');
ok(wait_until(sub { requests('/late') }), 'its request is there');
start('prompt', { request => request('/fine') }, 'SELECT 1 AS id');
ended('prompt', 1, 'a destination of the same host');
is(sql(q(SELECT count(*) FROM cdi.sync_rows r JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'late')), '0', 'does not wait for it');
is(sql(q(SELECT string_agg(in_flight_requests || '|' || in_flight_rows, ' ' ORDER BY destination) FROM cdi.stat_destinations)), '1|1 0|0', 'what is in flight is shown');
answer('late');
ended('late', 1, 'and it comes');

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
start('long', { request => request('/long'), response => { rules => [ { status => [200], class => 'ok', rows => { each => '$.errors', index => '@.index' } } ] } }, 'SELECT 1 AS id');
ended('long', 1, 'an answer that is too long to find the bad rows in');
is(sql(q(SELECT class || ': ' || error FROM cdi.failed_deliveries f JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'long')), 'retryable: the answer cannot be read: it is longer than 1 MB', 'is not taken for acceptance');
start('long_ok', { request => request('/long') }, 'SELECT 1 AS id');
ended('long_ok', 1, 'where nobody looks into it');
is(sql(q(SELECT count(*) FROM cdi.sync_rows r JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'long_ok')), '1', 'it is one');
start('echo', { request => request('/echo') }, 'SELECT 1 AS id', { type => 'basic', username => 'us', password => '{{secret.secret}}' });
ended('echo', 1, 'credentials that come back');
is(sql(q(SELECT string_agg(DISTINCT error, ' / ') FROM cdi.deliveries d JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'echo')), 'HTTP 422: Basic dXM6***A==', 'are not recorded');
is(push_pid($node), $pid, 'and the worker is the same');

# ---- rows that make a request impossible ----

my $people = q(SELECT row_number() OVER ()::int AS id, v FROM unnest(ARRAY[$$ann$$, $$b b$$, $$c$$ || chr(10) || $$c$$, $$..$$, $$%2E%2e$$, $$dora$$, $$/$$, $$.eve$$]) v);
start('path', { request => request('/fine/{{mapped.v}}') }, $people);
ended('path', 8, 'every row ends');
is(sql(q(SELECT string_agg(f.class || ' ' || (f.payload ->> 'id'), ', ' ORDER BY f.payload ->> 'id') FROM cdi.failed_deliveries f JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'path')),
	'invalid 2, invalid 3, invalid 4, invalid 5', 'those that make no address, or another one, are dead letters');
start('header', { batch => { max_items => 8 }, meta => { v => { '@path' => '$.v' } }, group_by => { '@path' => '$.v' }, request => request('/fine?header', headers => { 'X-V' => '{{meta.v}}' }) }, $people);
ended('header', 8, 'or no header');
is(sql(q(SELECT string_agg(f.class || ' ' || (f.payload ->> 'id') || ' ' || f.error, ', ') FROM cdi.failed_deliveries f JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'header')),
	'invalid 3 header of the request is not valid', 'with the reason');
start('host', { request => { method => 'POST', url => 'http://{{mapped.v}}127.0.0.1/' } }, 'SELECT 1 AS id, $$evil.$$ AS v', undef, egress => { allow_hosts => ['127.0.0.1'] });
ended('host', 1, 'or lead it elsewhere');
is(sql(q(SELECT f.class || ': ' || error FROM cdi.failed_deliveries f JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'host')), q(invalid: the destination's specification does not allow this host), 'which says so');
is(sql(q(SELECT count(*) FROM cdi.stat_destinations WHERE destination IN ('path', 'header', 'host') AND paused_reason IS NOT NULL)), '0', 'and the destination goes on');

# ---- why it waits ----

start('tired', { request => request('/tired') }, 'SELECT n AS id FROM generate_series(1, 20) n');
ok($node->poll_query_until('shop', q(SELECT paused_reason = 'It answered with HTTP status 401' AND open_since IS NULL FROM cdi.stat_destinations WHERE destination = 'tired')), 'a destination that is tired, then closed: pauses for its settings');
my $pauses = sql(q(SELECT since FROM cdi.destination_pauses JOIN cdi.destinations USING (destination_id) WHERE name = 'tired'));
my $tries = sub { sql(q(SELECT count(*) FROM cdi.deliveries d JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'tired')) };
my $tried = $tries->();
ok($node->poll_query_until('shop', "SELECT count(*) > $tried + 3 FROM cdi.deliveries d JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'tired'"), 'it is tried again and again');
is(sql(q(SELECT count(*) || ' ' || min(since) FROM cdi.destination_pauses JOIN cdi.destinations USING (destination_id) WHERE name = 'tired')), "1 $pauses", 'which is one pause');
for my $server ([ 'down', '/fail?down', q(open_reason = 'its authorization server gives no token: HTTP 500' AND open_since IS NOT NULL) ],
	[ 'scope', '/scope', q(paused_reason = 'The authorization server refuses to give access (invalid_scope)') ])
{
	my ($name, $path, $shown) = @$server;
	start("oauth_$name", { request => request('/fine') }, 'SELECT 1 AS id',
		{ type => 'oauth2', grant => 'client_credentials', token_url => "{{settings.base}}$path", client_id => 'us', client_secret => '{{secret.secret}}' });
	ok($node->poll_query_until('shop', "SELECT $shown FROM cdi.stat_destinations WHERE destination = 'oauth_$name'"), "an authorization server that is $name: is shown");
}
sql("SELECT cdi_disable_destination('$_')") for qw(oauth_down oauth_scope);
sql(q(SELECT cdi_drop_sync('tired'), cdi_drop_destination('tired')));
is(sql('SELECT count(*) FROM cdi.destination_pauses WHERE destination_id NOT IN (SELECT destination_id FROM cdi.destinations)'), '0', 'a destination that is dropped has no pause');

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
ok(wait_until(sub { requests('/token') }), 'it is asked for');
sql(q(SELECT cdi_drop_sync('token'), cdi_drop_destination('token')));
start('dropped', { request => request('/fine') }, 'SELECT 1 AS id');
ended('dropped', 1, 'the worker knows that it is dropped');
answer('token');
sleep(0.5);
start('outlived', { request => request('/fine') }, 'SELECT 1 AS id');
ended('outlived', 1, 'others go on');
is(push_pid($node), $pid, 'the worker has outlived it');

# ---- begun anew while requests are in flight ----

unlink "$requests_file.token";
start('reset', { request => request('/token?reset') }, 'SELECT n AS id FROM generate_series(1, 50) n');
ok(wait_until(sub { requests('/token?reset') == 2 }), 'as many as may be');
sql(q(SELECT cdi_sync_reset('reset')));
start('resets', { request => request('/fine') }, 'SELECT 1 AS id');
ended('resets', 1, 'the worker knows of the reset');
answer('token');
sql(q(SELECT cdi_alter_sync('reset', model => 'SELECT 51 AS id', mode => 'upsert'), cdi_sync_run('reset')));
ok($node->poll_query_until('shop', q(SELECT count(*) = 1 FROM cdi.sync_rows r JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'reset' AND r.primary_key = '51')), 'what comes after a reset is sent');
is(scalar(requests('/token?reset')), 3, 'and nothing that was queued before it');

# Rows that have ended, and of which that is not written yet
unlink "$requests_file.late";
start('held', { request => request('/late') }, 'SELECT n AS id FROM generate_series(1, 40) n');
start("gone$_", { batch => { max_items => 20 }, request => request('/fine') }, q(SELECT n AS id, repeat($$x$$, 1000) AS v FROM generate_series(1, 4000) n)) for 1 .. 8;
for (1 .. 8)
{
	sql("SELECT cdi_drop_sync('gone$_')");
	sleep(0.03);
}
answer('late');
ok($node->poll_query_until('shop', q(SELECT count(*) = 40 FROM cdi.sync_rows r JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'held')), 'syncs that are dropped while they send');
is(push_pid($node), $pid, 'harm nobody');
ok($node->poll_query_until('shop', q(SELECT count(*) = 0 FROM (SELECT sync_id FROM cdi.sync_rows UNION ALL SELECT sync_id FROM cdi.push_cursor) r WHERE sync_id NOT IN (SELECT sync_id FROM cdi.syncs))), 'and leave nothing');

# ---- rules that change while a request is in flight ----

sql(q(SELECT cdi_install_destination_spec('{"$schema": "cdi-dest-1", "name": "first_events", "version": "1", "limits": {"concurrency": 2}, "settings": {"type": "object", "properties": {"base": {"type": "string"}}},
	"actions": {"a": {"ops": ["insert"], "map": {"@path": "$"}, "request": {"method": "POST", "url": "{{settings.base}}/first", "body": {"format": "ndjson"}}}}}')));
sql(qq(SELECT cdi_create_destination('first_events', 'first_events', '{"base": "http://127.0.0.1:$port"}')));
sql(q(SELECT cdi_create_event_stream('first_events', 'first_events')));
sql(q(SELECT cdi_track('u' || n, 'E') FROM generate_series(1, 2) n));
ok(wait_until(sub { requests('/first') >= 2 }), 'two events are sent');
sql(q(SELECT cdi_alter_event_stream('first_events', rules => '{"events": ["F"]}')));
sleep(0.3);
my $used = cpu();
sleep(1.5);
cmp_ok(cpu() - $used, '<', 50, 'the worker waits for its answer, and does nothing meanwhile');
note('ticks ', cpu() - $used);
answer('first');

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
my $more = qq(SELECT count(*) - $before FROM cdi.sync_runs r JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'second');
ok($node->poll_query_until('shop', $more, '2'), 'a time beyond all times: it runs once');
sleep(2);
is(sql($more), '2', 'and not again and again');

# ---- why ----

sql(q(SET session_replication_role = replica; DELETE FROM cdi.destination_specs WHERE name = 'first'));
sql(qq(UPDATE cdi.destinations SET settings = settings WHERE name = 'first'; SELECT cdi_alter_sync('nul', mode => 'upsert')));
ok($node->poll_query_until('shop', q(SELECT count(*) = 1 FROM cdi.destination_pauses p JOIN cdi.destinations d USING (destination_id) WHERE d.name = 'first' AND p.reason LIKE '%is gone%')), 'a destination that cannot be used says why');

# ---- idle ----

sleep(2);
my $ticks = cpu();
sleep(4);
note('ticks ', cpu() - $ticks);
cmp_ok(cpu() - $ticks, '<=', 8, 'and the worker rests') or diag(sql(q(SELECT s.name, d.class, count(*) FROM cdi.deliveries d JOIN cdi.syncs s USING (sync_id) WHERE sent_at > now() - interval '4 s' GROUP BY 1, 2)), sql('TABLE cdi.destination_pauses'));

$vendor->kill_kill;
$node->stop;
done_testing();
