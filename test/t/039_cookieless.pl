# Cookieless ids over HTTP and over days: one salt for all processes, gone with
# its day and with the server, and no address anywhere.
use strict;
use warnings;

use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

use FindBin;
use lib $FindBin::RealBin;
use CdiHttp;
use CdiWait;

# The server's clock is the system's and what stands in this file.
my $temp = PostgreSQL::Test::Utils::tempdir();
system_or_bail('cc', '-shared', '-fPIC', '-o', "$temp/clock.so", "$ENV{CDI_ROOT}/test/lib/clock.c", '-ldl');
$ENV{CLOCK} = "$temp/clock";
# to the next noon: pg_ctl takes no server for its own that was started before
my $to_noon = (12 * 3600 - time) % 86400;

sub set_days
{
	append_to_file("$temp/new", $to_noon + 86400 * $_[0]);
	rename "$temp/new", $ENV{CLOCK} or die "cannot set the clock: $!";
}
set_days(0);

my ($node, $port, $db);
{
	local $ENV{LD_PRELOAD} = "$temp/clock.so";
	($node, $port, $db) = collector_node('cookieless', "cdi.collector_workers = 2\ncdi.collector_trusted_proxies = '127.0.0.1'");
}
sub sql { return $node->safe_psql($db, $_[0]) }
my $key = sql(q(SELECT cdi_create_source('web')));
ok(wait_until(sub { http_sockets($port) == 2 }), 'the collectors listen');
sql(q(SELECT cdi_alter_source('web', '{"cookieless": "missing"}')));
my $sequence = 0;
my $visitor = '203.0.113.77';
my %browser = ('X-Forwarded-For' => $visitor, 'User-Agent' => 'Agent/1', Origin => 'https://www.shop.example', basic("$key:"));

# One event: the answer, and the anonymous id and context that were stored
sub visit
{
	my ($headers, $members) = @_;
	my $id = 'h-' . ++$sequence;
	my $answer = http_post($port, '/v1/track', { %browser, %{ $headers // {} } },
		qq({"event": "Visited", "messageId": "$id") . ($members ? ", $members" : '') . '}');
	return ($answer, split /\|/, sql("SELECT anonymous_id, context FROM cdi.events WHERE message_id = '$id'"), -1);
}
sub id { return (visit(@_))[1] }

# One client
my %ids;
$ids{ id() }++ for 1 .. 40;
is(join(' ', values %ids), 40, 'one visitor has one id, on forty connections');
my ($first) = keys %ids;
like($first, qr/^cookieless:[0-9a-f]{32}$/, 'of the day');
my $metrics = http_get($port, '/metrics')->{body};
my %workers = map { $_ => 1 } $metrics =~ /^cdi_collector_events_total\{worker="(\d+)"\} [1-9]/mg;
is(join(' ', sort keys %workers), '1 2', 'of both collectors');
sql(qq(SELECT cdi_track(event => 'Visited', message_id => 'sql-1', source => 'web', context => '{"ip": "$visitor", "userAgent": "Agent/1"}')));
is(sql("SELECT anonymous_id FROM cdi.events WHERE message_id = 'sql-1'"), $first, 'and of a session');
is(id({ 'X-Forwarded-For' => "::ffff:$visitor" }), $first, 'an IPv4 address may come as IPv6');
isnt(id({ 'X-Forwarded-For' => '203.0.113.78' }), $first, 'another address, another visitor');
isnt(id({ 'User-Agent' => 'Agent/2' }), $first, 'another user agent, another visitor');
is(id({}, '"anonymousId": "device-9"'), 'device-9', 'an id of the device stays');
my $bytes = id({ 'User-Agent' => "Agent/\xff\xfe" });
is(id({ 'User-Agent' => "Agent/\xff\xfe" }), $bytes, 'a user agent need not be text');
isnt($bytes, id({ 'User-Agent' => "Agent/\xff\xfd" }), 'all its bytes count');

# Whose address it is
my ($answer, $stored, $context) = visit();
is($context, '{"userAgent": "Agent/1"}', 'the user agent is stored as ever');
for my $setting ('never', 'always')
{
	sql("SELECT cdi_alter_source('web', '{\"client_address\": \"$setting\"}')");
	($answer, $stored, $context) = visit();
	is("$stored $context", "$first " . ($setting eq 'never' ? '' : '{"userAgent": "Agent/1"}'), "client_address $setting: the same id");
}
sql(q(SELECT cdi_alter_source('web', '{"client_address": null}')));
delete $browser{Origin};
($answer, $stored) = visit();
is("$answer->{status} $answer->{json}{code}", '400 no_identifier', 'the address of a server is nobody\'s');
($answer, $stored, $context) = visit({}, '"context": {"ip": "' . $visitor . '", "userAgent": "Agent/1"}');
is("$stored $context", "$first {\"userAgent\": \"Agent/1\"}", 'a server says whose it is');
($answer, $stored, $context) = visit({}, '"userId": "u1", "context": {"ip": "' . $visitor . '", "userAgent": "Agent/1"}');
is("$answer->{status} $stored $context", '200  {"userAgent": "Agent/1"}', 'a user id needs no other');
$browser{Origin} = 'https://www.shop.example';
$answer = http_post($port, '/v1/batch', {%browser},
	qq({"context": {"ip": "203.0.113.79", "userAgent": "Agent/1"}, "batch": [{"type": "track", "event": "x", "messageId": "b-1"}, {"type": "track", "event": "x", "messageId": "b-2", "timestamp": "noon"}]}));
is("$answer->{json}{stored} $answer->{json}{failed}", '1 1', 'the context of a batch says it, too');

# What fails
$answer = http_post($port, '/v1/track', {%browser}, '{"event": "Visited", "messageId": "f-1", "timestamp": "noon"}');
is("$answer->{status} $answer->{json}{code}", '400 invalid_timestamp', 'an event that fails is answered as ever');
http_post($port, '/v1/track', {%browser}, '{"event": "Visited", "messageId": "f-2", }');
is(sql("SELECT string_agg(coalesce(envelope->>'cookielessId', '-'), ' ' ORDER BY failed_id) FROM cdi.failed_events WHERE convert_from(payload, 'UTF8') ~ 'f-[12]'"), "$first $first", 'and keeps its id');
sql(q(UPDATE cdi.failed_events SET received_at = received_at - interval '5 days', payload = convert_to(replace(replace(convert_from(payload, 'UTF8'), ', }', '}'), ', "timestamp": "noon"', ''), 'UTF8')));
sql('SELECT cdi_replay()');
is(sql("SELECT string_agg(anonymous_id, ' ') FROM cdi.events WHERE message_id ~ '^f-[12]\$'"), "$first $first", 'which it still has when it is replayed another day');

# Protocols
my $cookie = '0b9d6ff6-a0b5-4a3f-8a8b-5a3a2f4a1f10';
my $sp = sub {
	my ($headers) = @_;
	return http_post($port, '/com.snowplowanalytics.snowplow/tp2', { %browser, %$headers },
		'{"schema": "iglu:com.snowplowanalytics.snowplow/payload_data/jsonschema/1-0-4", "data": [{"e": "pv", "p": "web", "url": "https://www.shop.example/", "aid": "web", "eid": "00000000-0000-4000-8000-' . sprintf('%012d', ++$sequence) . '"}]}');
};
my $last = "FROM cdi.events ORDER BY position DESC LIMIT 1";
$answer = $sp->({});
is(sql("SELECT anonymous_id, context->'snowplow' ? 'network_userid' $last") . ($answer->{headers}{'set-cookie'} // ''), "$first|f", 'Snowplow: an id of the day and no cookie');
$answer = $sp->({ Cookie => "sp=$cookie" });
is(sql("SELECT anonymous_id, context->'snowplow' ? 'network_userid' $last") . ($answer->{headers}{'set-cookie'} // ''), "$first|f", 'nor is one read');
$sp->({ 'SP-Anonymous' => '*' });
is(sql("SELECT anonymous_id $last"), '00000000-0000-0000-0000-000000000000', 'who wants no recognition has none');
http_post($port, '/e/', {%browser}, qq({"api_key": "$key", "event": "x", "properties": {"distinct_id": "\$posthog_cookieless", "\$device_id": "\$posthog_cookieless"}}));
is(sql("SELECT anonymous_id, user_id $last"), "$first|", 'PostHog: its word for a cookieless id');
sql(q(SELECT cdi_alter_source('web', '{"cookieless": "always"}')));
is(id({}, '"anonymousId": "device-8"'), $first, 'always: also in the place of an id of the device');
is(id({ AnonymousId => 'ZGV2aWNlLTg=' }), $first, 'and of that of a header');
http_post($port, '/v1/track', { %browser, AnonymousId => 'ZGV2aWNlLTg=' }, '{"event": "x", "anonymousId": "device-8", "timestamp": "noon"}');
is(sql("SELECT envelope->>'cookielessId' FROM cdi.failed_events ORDER BY failed_id DESC LIMIT 1"), $first, 'also where it fails');

# Nothing of that is anywhere.
my $dump = `pg_dump -h @{[$node->host]} -p @{[$node->port]} $db`;
like($dump, qr/cookieless:/, 'a dump has the ids');
unlike($dump, qr/203\.0\.113|device-8|ZGV2aWNlLTg|$cookie/, 'and neither an address nor what the device called itself');
unlike(slurp_file($node->logfile), qr/203\.0\.113\.78/, 'nor has the log one that came over HTTP only');

# Databases
$node->safe_psql('postgres', q(CREATE EXTENSION cdi; SELECT cdi_init(); SELECT cdi_create_source('web'); SELECT cdi_alter_source('web', '{"cookieless": "always"}')));
is($node->safe_psql('postgres', "SELECT source_id FROM cdi.sources WHERE name = 'web'"), sql("SELECT source_id FROM cdi.sources WHERE name = 'web'"), 'another database has a source of the same number');
$node->safe_psql('postgres', qq(SELECT cdi_track(event => 'x', source => 'web', context => '{"ip": "$visitor", "userAgent": "Agent/1"}')));
isnt($node->safe_psql('postgres', 'SELECT anonymous_id FROM cdi.events'), $first, 'but other ids');

# Days
my $read = sql("SELECT (now() AT TIME ZONE 'UTC')::date");
my ($lock, $unlocked, $track, $said) = ("BEGIN; LOCK TABLE cdi.identity_key;\n", '', "\\set VERBOSITY verbose\nSELECT cdi_track(event => 'x', source => 'web', context => '{\"ip\": \"$visitor\", \"userAgent\": \"Agent/1\"}');\n", '');
my $holder = IPC::Run::start([ 'psql', '-Xq', $node->connstr($db) ], '<', \$lock, '>', \$unlocked);
$holder->pump until $lock eq '';
$node->poll_query_until($db, "SELECT count(*) = 1 FROM pg_locks WHERE relation = 'cdi.identity_key'::regclass AND mode = 'AccessExclusiveLock' AND granted");
my $waiter = IPC::Run::start([ 'psql', '-Xq', $node->connstr($db) ], '<', \$track, '2>', \$said);
$waiter->pump until $track eq '';
$node->poll_query_until($db, "SELECT count(*) = 1 FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE relation = 'cdi.identity_key'::regclass AND NOT granted AND backend_type = 'client backend'");
set_days(1);
$lock = "COMMIT;\n";
$holder->finish;
$waiter->finish;
like($said, qr/ERROR:  40001: the day ended/, 'an event between two days is to be sent again');
is(sql("SELECT (now() AT TIME ZONE 'UTC')::date - '$read'"), 1, 'a day later');
my $second = id();
isnt($second, $first, 'the visitor has another id');
is(id(), $second, 'for that day');
my $failed = sql(qq(SELECT failed FROM cdi_ingest('{"type": "track", "event": "x", "receivedAt": "${read}T12:00:00Z", "context": {"ip": "$visitor", "userAgent": "Agent/1"}}', 'web', history => true)));
is($failed, 1, 'an event that came the day before gets none');
set_days(2);
$node->reload;    # wakes the launcher, which comes by itself within a minute
# Longer and longer: to look is to come on that day.
my $patience = 0;
ok(wait_until(sub {
	sleep($patience += 0.1);
	set_days(1);
	return 1 if id() ne $second;
	set_days(2);
	$node->reload;
	return 0;
}), 'a day on which nobody came ended the day before it, too');

# The server
$second = id();
{
	local $ENV{LD_PRELOAD} = "$temp/clock.so";
	$node->restart;
}
http_wait($port);
isnt(id(), $second, 'a restart ends it');
$node->adjust_conf('postgresql.conf', 'shared_preload_libraries', "''");
$node->restart;
my ($status, $out, $error) = $node->psql($db, "\\set VERBOSITY verbose\nSELECT cdi_alter_source('web', '{\"cookieless\": \"missing\"}')");
like($error, qr/ERROR:  55000: .*shared memory.*HINT:  .*shared_preload_libraries/s, 'without preload the setting is refused');
for my $call (qq(cdi_track(event => 'x', source => 'web', context => '{"ip": "$visitor", "userAgent": "Agent/1"}')),
	q(cdi_track('u1', 'x', source => 'web')), q(cdi_ingest('[{"type": "track", "event": "x", "anonymousId": "a"}]', 'web')), q(cdi_ingest('[{"type": "trak"}]', 'web')))
{
	($status, $out, $error) = $node->psql($db, "\\set VERBOSITY verbose\nSELECT $call");
	like($error, qr/ERROR:  55000: /, "and so is $call");
}
is(sql(q(SELECT cdi_track('u1', 'x') IS NOT NULL)), 't', 'other sources go on');
is(sql(q(SELECT cdi_alter_source('web', '{"cookieless": "off"}'); SELECT cdi_track(event => 'x', anonymous_id => 'device-7', source => 'web') IS NOT NULL)), "\nt", 'and this one without');
$node->stop;
done_testing();
