# The dialects of PostHog and Google Analytics 4, request by request: what the
# clients of test/integration do not show, and what goes wrong.
use strict;
use warnings;

use Compress::Zlib;
use JSON::PP;
use MIME::Base64;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use FindBin;
use lib $FindBin::RealBin;
use CdiHttp;

my ($node, $port, $db) = collector_node('dialects', <<CONF);
cdi.collector_max_body = 256kB
cdi.ingest_max_event = 64kB
CONF
my $key = $node->safe_psql($db, "SELECT cdi_create_source('web')");
$node->safe_psql($db, "SELECT cdi_add_write_key('web', k) FROM unnest(ARRAY['SECRET', 'G-SHOP', '1:42:web:ab']) k");
ok(http_wait($port), 'the collector answers /health');

my $json = JSON::PP->new->utf8->canonical;
my $position = 0;

sub sql
{
	return $node->safe_psql($db, $_[0]);
}

# An expression over the events stored since the last time
sub fresh
{
	my ($columns) = @_;
	my $rows = sql("SELECT $columns FROM (SELECT * FROM cdi.events WHERE position > $position ORDER BY position) e");
	$position = sql("SELECT COALESCE(max(position), 0) FROM cdi.events");
	return $rows;
}

sub last_failure
{
	my ($columns) = @_;
	return sql("SELECT $columns FROM cdi.failed_events ORDER BY failed_id DESC LIMIT 1");
}

# PostHog
sub posthog
{
	my ($path, $body, %headers) = @_;
	return http_post($port, $path, \%headers, ref $body ? $json->encode($body) : $body);
}

sub event
{
	my ($name, $id, $properties, %members) = @_;
	return { event => $name, distinct_id => $id, properties => $properties || {}, %members };
}

subtest 'paths, encodings and keys' => sub {
	my $one = event('E', 'u1');
	my %body = (api_key => $key, %$one);

	for my $path ('/e/', '/e', '/capture/', '/track/', '/batch/')
	{
		my $answer = posthog($path, \%body);
		is("$answer->{status} $answer->{body}", '200 {"status":1}', "POST $path");
	}
	is(posthog('/i/v0/e/', \%body)->{body}, '{"status":"Ok"}', 'POST /i/v0/e/');
	is(fresh("count(*), min(event), min(user_id)"), '6|E|u1', 'each stored one event');

	my $text = $json->encode(\%body);
	my $form = encode_base64($text, '');
	$form =~ s/([+\/=])/sprintf '%%%02X', ord $1/ge;
	is(posthog('/e/?compression=base64', "data=$form")->{status}, 200, 'base64 in a form');
	is(posthog('/e/', encode_base64($text, ''))->{status}, 200, 'base64 alone');
	is(posthog('/e/?compression=gzip-js', Compress::Zlib::memGzip($text))->{status}, 200, 'gzip that no header names');
	is(http_get($port, "/e/?data=$form")->{status}, 200, 'GET');
	# as posthog-js of 2023 encodes an emoji for sendBeacon
	(my $halves = $text) =~ s/"E"/"E\xed\xa0\xbd\xed\xbb\x92"/;
	is(posthog('/e/?ip=1', 'data=' . encode_base64($halves, ''))->{status}, 200, 'surrogate pairs in base64');
	is(fresh(q{count(*), count(*) FILTER (WHERE event = U&'E\+01F6D2')}), '5|1', 'are the characters that they stand for');
	(my $plain = $text) =~ s/([^A-Za-z0-9])/sprintf '%%%02X', ord $1/ge;
	is(posthog('/e/', "data=$plain")->{status}, 200, 'JSON in a form');
	is(fresh("count(*), min(event)"), '1|E', 'and stored it');

	is(posthog('/batch', { token => $key, batch => [$one] })->{status}, 200, 'key as token');
	is(posthog('/e', [ event('E', 'u1', { token => $key }) ])->{status}, 200, 'key among the properties');
	is(posthog("/e?token=$key", $one)->{status}, 200, 'key in the address');
	is(fresh("bool_or(properties ? 'token'), count(*)"), 'f|3', 'it is not kept');

	my $answer = posthog('/e', { api_key => 'wrong', %$one });
	is($answer->{status}, 401, 'unknown key');
	is_deeply([ sort keys %{ $answer->{json} } ], [qw(attr code detail type)], 'in the form of errors of PostHog');
	is($answer->{json}{type}, 'authentication_error', 'its type');
};

subtest 'who it was' => sub {
	my @cases = (
		# name, distinct_id, properties => user|anonymous|previous|group
		[ 'a server\'s user', event('E', 'u1'), 'u1|||' ],
		[ 'a number', event('E', 17), '17|||' ],
		[ 'id among the properties', { event => 'E', properties => { distinct_id => 'u1' } }, 'u1|||' ],
		[ 'not identified', event('E', 'a1', { '$is_identified' => JSON::PP::false }), '|a1||' ],
		[ 'identified', event('E', 'u1', { '$is_identified' => JSON::PP::true, '$process_person_profile' => JSON::PP::false }), 'u1|||' ],
		[ 'state of the user', event('E', 'a1', { '$user_state' => 'anonymous' }), '|a1||' ],
		[ 'no person', event('E', 'a1', { '$process_person_profile' => JSON::PP::false }), '|a1||' ],
		[ 'still the device', event('E', 'd1', { '$device_id' => 'd1' }), '|d1||' ],
		[ 'no longer', event('E', 'u1', { '$device_id' => 'd1', '$user_id' => 'u1' }), 'u1|||' ],
		[ 'posthog-js after reset()', event('E', 'a2', { '$device_id' => 'd1', '$lib' => 'web' }), '|a2||' ],
		[ 'posthog-js with a user', event('E', 'u1', { '$device_id' => 'd1', '$lib' => 'web', '$user_id' => 'u1' }), 'u1|||' ],
		[ 'another SDK with a device', event('E', 'u1', { '$device_id' => 'd1', '$lib' => 'posthog-node' }), 'u1|||' ],
		[ 'identify', event('$identify', 'u1', { '$anon_distinct_id' => 'a1' }), 'u1|a1||' ],
		[ 'identify itself', event('$identify', 'u1', { '$anon_distinct_id' => 'u1' }), 'u1|||' ],
		[ 'alias', event('$create_alias', 'u1', { alias => 'a1' }), 'u1|u1|a1|' ],
		[ 'merge', event('$merge_dangerously', 'u1', { alias => 'u2' }), 'u1|u1|u2|' ],
		[ 'group of a user', event('$groupidentify', 'u1', { '$group_type' => 'c', '$group_key' => 'acme' }), 'u1|||acme' ],
		[ 'group by itself', event('$groupidentify', '$c_acme', { '$group_type' => 'c', '$group_key' => 'acme' }), '|$c_acme||acme' ],
	);
	is(posthog('/batch', { api_key => $key, batch => [ map { $_->[1] } @cases ] })->{body}, '{"status":1}', 'sent');
	my @rows = split /\n/, fresh('user_id, anonymous_id, previous_id, group_id');
	is($rows[$_], $cases[$_][2], $cases[$_][0]) for 0 .. $#cases;
};

subtest 'types, traits and context' => sub {
	posthog('/batch', { api_key => $key, batch => [
		event('$pageview', 'u1', { '$current_url' => 'https://shop.example/a?utm_source=x', '$pathname' => '/a',
			'$referrer' => '$direct', title => 'A', utm_source => 'x', utm_medium => undef, '$os' => 'iOS',
			'$os_version' => '17', '$screen_width' => 390, '$lib' => 'web', '$session_id' => 's1', gclid => undef }),
		event('$screen', 'u1', { '$screen_name' => 'Start' }),
		event('$set', 'u1', { '$set' => { plan => 'pro' }, '$set_once' => { plan => 'free', first => 1, nothing => undef } }),
		event('$autocapture', 'u1', { '$set' => { a => 1 } }, '$set' => { a => 2, b => 2 }, library => 'x'),
		event('$groupidentify', 'u1', { '$group_type' => 'c', '$group_key' => 'acme', '$group_set' => { n => 1 } }) ] });
	is(fresh("type, event, traits"), join("\n",
		'page||', 'screen|Start|', 'identify||{"plan": "pro", "first": 1}',
		'track|$autocapture|{"a": 1, "b": 2}', 'group||{"n": 1}'), 'types and traits');
	is_deeply($json->decode(sql("SELECT context - 'ip' - 'userAgent' FROM cdi.events WHERE type = 'page'")),
		{ page => { url => 'https://shop.example/a?utm_source=x', path => '/a', title => 'A' },
		  campaign => { source => 'x' }, os => { name => 'iOS', version => '17' }, screen => { width => 390 },
		  library => { name => 'web' }, sessionId => 's1' }, 'context of a page');
	is(sql("SELECT properties ? 'gclid', context->>'ip' FROM cdi.events WHERE type = 'page'"), 't|127.0.0.1', 'properties are kept, and the address is the device\'s');
	is(sql("SELECT context->'posthog' FROM cdi.events WHERE event = '\$autocapture'"), '{"library": "x"}', 'what stands beside the properties');
	posthog('/e', { api_key => $key, %{ event('E', 'u1', { '$geoip_disable' => JSON::PP::true }) } });
	is(fresh("context ? 'ip'"), 'f', 'but not a server\'s');
	posthog('/e', { api_key => $key, %{ event('E', 'u1', { '$lib' => 'posthog-node' }) } });
	is(fresh("context"), '{"library": {"name": "posthog-node"}}', 'nor that of one that only says its name');
	posthog('/batch', { api_key => $key, batch => [ event('E', 'u1', {}, '$lib' => 'posthog-java') ] });
	is(fresh("context"), '{"library": {"name": "posthog-java"}}', 'also beside the properties, as Java does');
};

subtest 'times' => sub {
	my $now = time;
	my @t = gmtime($now - 7200);
	my $iso = sprintf '%04d-%02d-%02dT%02d:%02d:%02d.000Z', $t[5] + 1900, $t[4] + 1, @t[ 3, 2, 1, 0 ];
	my $age = "round(extract(epoch FROM received_at - \"timestamp\"))";
	# What the client said is so old as it is, and as long as the test takes.
	my $passed = sub { return 5 + time - $now };

	posthog('/batch', { api_key => $key, batch => [
		event('offset', 'u1', {}, offset => 90_000),
		event('milliseconds', 'u1', {}, timestamp => int(($now - 60) * 1000)),
		event('none', 'u1') ] });
	is(fresh("event, abs($age - CASE event WHEN 'offset' THEN 90 WHEN 'milliseconds' THEN 60 ELSE 0 END) < @{[$passed->()]}, sent_at IS NULL"),
		"offset|t|t\nmilliseconds|t|t\nnone|t|t", 'offset, milliseconds and neither');
	is(sql("SELECT received_at - \"timestamp\" FROM cdi.events WHERE event = 'offset'"), '00:01:30', 'an offset is exact');

	# The client's clock is two hours late, and the event happened when it was sent.
	posthog('/batch', { api_key => $key, sent_at => $iso, batch => [
		event('late', 'u1', {}, timestamp => $iso),
		event('ignored', 'u1', { '$ignore_sent_at' => JSON::PP::true }, timestamp => $iso) ] });
	is(fresh("event, abs($age - CASE event WHEN 'late' THEN 0 ELSE 7200 END) < @{[$passed->()]}"), "late|t\nignored|t", 'sent_at corrects the clock');
	posthog('/e?sent_at=' . int(($now - 7200) * 1000), [ event('E', 'u1', { token => $key }, timestamp => $iso) ]);
	is(fresh("abs($age) < 5"), 't', 'also from the address');
	posthog('/e', [ event('E', 'u1', { token => $key }, timestamp => $iso, sent_at => $iso) ]);
	is(fresh("abs($age) < 5"), 't', 'and from the event');
	posthog('/batch', { api_key => $key, sentAt => $iso, batch => [ event('E', 'u1', {}, timestamp => $iso) ] });
	is(fresh("abs($age) < 5"), 't', 'also as Python said it before version 7');
	posthog('/e?ip=0&_=' . int(($now - 7200) * 1000), [ event('E', 'u1', { token => $key }, timestamp => $iso) ]);
	is(fresh("abs($age) < 5"), 't', 'and as posthog-js says it in the address');
	posthog('/e?_=x7', [ event('E', 'u1', { token => $key }, timestamp => $iso) ]);
	is(fresh("abs($age - 7200) < @{[$passed->()]}"), 't', '... where it is a time');
};

subtest 'duplicates and bad input' => sub {
	my $uuid = '018f4bd2-1c63-7a52-8000-000000000001';
	my $one = event('E', 'u1', {}, uuid => $uuid);

	posthog('/batch', { api_key => $key, batch => [ $one, $one ] });
	posthog('/batch', { api_key => $key, batch => [$one] });
	is(fresh('message_id'), $uuid, 'one event with its uuid');

	my $answer = posthog('/batch', { api_key => $key, batch => [ event('fine', 'u1'), { event => 'no id' }, 5, event('far', 'u1', {}, offset => 'x') ] });
	is($answer->{status}, 200, 'a batch with bad events is a success');
	is($answer->{json}{status}, 1, 'in the form of PostHog');
	is_deeply([ map { "$_->{index} $_->{code}" } @{ $answer->{json}{errors} } ],
		[ '1 no_identifier', '2 invalid_event', '3 invalid_timestamp' ], 'that names them');
	is(fresh('event'), 'fine', 'the good one is stored');

	$answer = posthog('/e', { api_key => $key, event => 'E' });
	is("$answer->{status} $answer->{json}{code}", '400 no_identifier', 'a single event without an id');
	is(last_failure("convert_from(payload, 'UTF8')::jsonb ->> 'event'"), 'E', 'is recorded');
	for my $bad ('', '{', 'data=%%%', '[1', "{\"api_key\": \"$key\", \"batch\": 1}")
	{
		$answer = posthog("/e?token=$key", $bad);
		is("$answer->{status} $answer->{json}{code}", '400 invalid_json', "body $bad");
	}
	is(posthog("/e?token=$key", '[]')->{status}, 200, 'nothing at all');
	$answer = posthog('/e', { api_key => $key, %{ event('E', 'u1', { x => 'x' x 70_000 }) } });
	is($answer->{status}, 413, 'an event that is too large');
	my $failed = sql("SELECT max(failed_id) FROM cdi.failed_events");
	is(sql("SET cdi.ingest_max_event = '128kB'; SELECT stored FROM cdi_replay(ARRAY[$failed])"), '1', 'is stored by a replay that takes it');
	is(fresh("event, user_id, length(properties->>'x')"), 'E|u1|70000', 'as the call that it was');
	is(fresh('count(*)'), '0', 'nothing of that is stored');
	is(posthog('/batch', { writeKey => $key, batch => [ { type => 'track', event => 'S', userId => 'u1' } ] })->{json}{status},
		undef, 'a batch without a key of PostHog is another\'s');
	fresh('1');
};

subtest 'what SDKs ask for' => sub {
	my $answer = posthog('/flags/?v=2', { token => $key, distinct_id => 'u1' });
	is($answer->{status}, 200, 'flags');
	is_deeply($answer->{json}{flags}, {}, 'there are none');
	ok(!$answer->{json}{errorsWhileComputingFlags}, 'and that is no error');
	is(posthog('/decide/?v=3', { token => $key })->{status}, 200, 'decide');
	is(posthog('/flags/?v=2', { token => 'wrong' })->{status}, 401, 'of an unknown key');
	$answer = http_get($port, "/array/$key/config");
	is($answer->{json}{token}, $key, 'configuration');
	ok(!$answer->{json}{hasFeatureFlags}, 'says that there are no flags');
	$answer = http_get($port, "/array/$key/config.js");
	is($answer->{headers}{'content-type'}, 'application/javascript', 'as a script');
	like($answer->{body}, qr/^\(window\._POSTHOG_REMOTE_CONFIG.*\)\["\Q$key\E"\]=\{"config":\{.*\},"siteApps":\[\]\};$/, 'that sets it');
	is(http_get($port, "/array/$key/array.js")->{status}, 404, 'no other script');
	is_deeply([ map { http_get($port, "/api/$_?token=$key")->{json} } 'surveys/', 'early_access_features/', 'feature_flag/local_evaluation' ],
		[ { surveys => [], survey_config => undef }, { earlyAccessFeatures => [] }, { flags => [], group_type_mapping => {}, cohorts => {} } ], 'nor surveys, nor definitions');
	is(http_get($port, '/array/wrong/config')->{status}, 401, 'nor for an unknown key');
	is(fresh('count(*)'), '0', 'no events');
};

# Google Analytics 4
my $stream = '/mp/collect?measurement_id=G-SHOP&api_secret=SECRET';

sub mp
{
	my ($body, $path) = @_;
	return http_post($port, $path || $stream, {}, ref $body ? $json->encode($body) : $body);
}

subtest 'measurement protocol' => sub {
	my $answer = mp({ client_id => '1.2', user_id => 'u1', timestamp_micros => '1767323045123456',
		user_properties => { plan => { value => 'pro' }, gone => { value => undef } }, non_personalized_ads => JSON::PP::true,
		consent => { ad_user_data => 'GRANTED' }, ip_override => '203.0.113.7', user_location => { city => 'Ulm' },
		device => { category => 'mobile' }, user_data => { sha256_email_address => ['00'] },
		events => [
			{ name => 'page_view', params => { page_location => 'https://shop.example/?gclid=a', page_title => 'A', page_referrer => 'https://www.google.com/', session_id => '77' } },
			{ name => 'screen_view', params => { screen_name => 'Start', screen_resolution => '390x844', language => 'de' } },
			{ name => 'campaign_details', params => { source => 'news', medium => 'email', campaign => 'spring' } },
			{ name => 'tick', timestamp_micros => 1767323046000001, params => { source => 'tap', engagement_time_msec => 5 } } ] });
	is("$answer->{status} " . length $answer->{body}, '204 0', 'answered as Google does');
	is(fresh("type, event, user_id, anonymous_id, traits->>'plan', \"timestamp\" AT TIME ZONE 'UTC', sent_at"), join("\n",
		'page||u1|1.2|pro|2026-01-02 03:04:05.123456|', 'screen|Start|u1|1.2|pro|2026-01-02 03:04:05.123456|',
		'track|campaign_details|u1|1.2|pro|2026-01-02 03:04:05.123456|', 'track|tick|u1|1.2|pro|2026-01-02 03:04:06.000001|'),
		'calls, each with its time');
	is(sql("SELECT context->'page', click_id_type, context->>'sessionId' FROM cdi.events WHERE anonymous_id = '1.2' AND type = 'page'"),
		'{"url": "https://shop.example/?gclid=a", "title": "A", "referrer": "https://www.google.com/"}|gclid|77', 'page');
	is(sql("SELECT context->'screen', context->>'locale' FROM cdi.events WHERE anonymous_id = '1.2' AND type = 'screen'"),
		'{"width": 390, "height": 844}|de', 'screen');
	is(sql("SELECT string_agg(concat_ws('-', event, campaign_source, campaign_medium, campaign_name), ' ' ORDER BY position) FROM cdi.events WHERE anonymous_id = '1.2' AND type = 'track'"),
		'campaign_details-news-email-spring tick', 'a campaign is what its event says, not every "source"');
	is_deeply($json->decode(sql("SELECT context FROM cdi.events WHERE event = 'tick'")),
		{ ip => '203.0.113.7', location => { city => 'Ulm' }, device => { category => 'mobile' }, consent => { ad_user_data => 'GRANTED' },
		  user_data => { sha256_email_address => ['00'] }, google => { measurement_id => 'G-SHOP', non_personalized_ads => JSON::PP::true } },
		'context as it was sent');

	mp({ clientId => '3.4', userId => 'u3', timestampMicros => 1767323045123456, userProperties => { plan => { value => 'pro' } }, ipOverride => '203.0.113.8',
		device => { language => 'de', screen_resolution => '390x844', operating_system => 'Android', operating_system_version => '14' },
		events => [ { name => 'camel', timestampMicros => 1767323046000001 }, { name => 'case', params => { language => 'fr' } } ] });
	is(fresh("event, anonymous_id, user_id, traits->>'plan', \"timestamp\" AT TIME ZONE 'UTC', context->>'ip', context->>'locale', context->'screen', context->'os'"),
		'camel|3.4|u3|pro|2026-01-02 03:04:06.000001|203.0.113.8|de|{"width": 390, "height": 844}|{"name": "Android", "version": "14"}' . "\n"
		  . 'case|3.4|u3|pro|2026-01-02 03:04:05.123456|203.0.113.8|fr|{"width": 390, "height": 844}|{"name": "Android", "version": "14"}',
		'the other spelling, and the device under the names of Segment');
	mp({ app_instance_id => 'app1', events => [ { name => 'x' } ] }, '/mp/collect?firebase_app_id=1:42:web:ab');
	is(fresh("event, anonymous_id, context #>> '{google,firebase_app_id}', \"timestamp\" = received_at, properties"), 'x|app1|1:42:web:ab|t|', 'an app');
	mp({ client_id => '1.2', events => [ map { { name => 'many', params => { map { ("p$_" => 'x' x 200) } 1 .. 40 } } } 1 .. 30 ] });
	is(fresh("count(*), min((SELECT count(*) FROM jsonb_object_keys(properties)))"), '30|40', 'more than Google would take');
};

subtest 'measurement protocol, bad input' => sub {
	is(mp({ client_id => '1.2', events => [ { name => 'good' }, 5, { params => {} }, { name => 'late', timestamp_micros => 'x' } ] })->{status}, 204, 'bad events');
	is(fresh('event'), 'good', 'cost their neighbours nothing');
	is(sql("SELECT string_agg(sqlstate, ' ' ORDER BY failed_id) FROM (SELECT * FROM cdi.failed_events ORDER BY failed_id DESC LIMIT 3) f"),
		'ZC202 ZC202 ZC205', 'and are recorded');
	is(mp('no JSON')->{status}, 204, 'no JSON');
	is(last_failure("convert_from(payload, 'UTF8')"), 'no JSON', 'is recorded');
	is(mp({ client_id => '1.2' })->{status}, 204, 'no events');
	is(mp({ events => [ { name => 'nobody' } ] })->{status}, 204, 'nobody');
	is(last_failure('sqlstate'), 'ZC204', 'is recorded');
	is(mp({ client_id => '1', events => [ { name => 'x' } ] }, '/mp/collect?api_secret=wrong')->{status}, 401, 'a wrong secret is told');
	is(http_get($port, $stream)->{status}, 405, 'GET is none of it');
	is(mp('x' x 300_000)->{status}, 413, 'a body that is too large');
	is(mp({ client_id => '1.2', note => 'x' x 100_000, events => [ map { { name => 'x' } } 1 .. 1000 ] })->{status}, 413,
		'a thousand events that share as much as a hundred kilobytes');
	is(fresh('count(*)'), '0', 'nothing of that is stored');
};

subtest 'debug endpoint' => sub {
	my $debug = sub {
		my ($body, $address) = @_;
		my $answer = mp($body, '/debug/mp/collect' . ($address // '?measurement_id=G-1&api_secret=any'));
		return "status $answer->{status}" if $answer->{status} != 200;
		return join ' ', map { "$_->{validationCode}:$_->{fieldPath}" } @{ $answer->{json}{validationMessages} };
	};
	my $events = sub { return { client_id => '1.2', events => [@_] } };
	my $long = 'n' x 41;

	is($debug->($events->({ name => 'fine', params => { session_id => '1', value => 1.5, currency => 'EUR', page_location => 'x' x 999 } })), '', 'nothing to say');
	is($debug->({ clientId => '1', userProperties => { plan => { value => 'pro' } }, events => [ { name => 'fine' } ] }), '', 'the other spelling');
	is($debug->($events->({ name => '_badEventName' })), 'NAME_INVALID:events', 'the example of Google\'s documentation');
	is($debug->($events->({ name => $long })), 'NAME_INVALID:events', 'a name too long');
	is($debug->($events->({ name => 'session_start' })), 'NAME_RESERVED:events', 'a reserved name');
	is($debug->($events->({ name => 'ga_x', params => { google_x => 1 } })), 'NAME_RESERVED:events NAME_RESERVED:events.params', 'reserved prefixes');
	is($debug->($events->({})), 'VALUE_REQUIRED:events.name', 'no name');
	is($debug->($events->({ name => 'x', params => { a => 'x' x 101 } })), 'VALUE_OUT_OF_BOUNDS:events.params', 'a value too long');
	is($debug->($events->({ name => 'x', params => { a => "\x{e9}" x 100 } })), '', 'characters count, not bytes');
	is($debug->($events->({ name => 'x', params => { map { ("p$_" => 1) } 1 .. 26 } })), 'EXCEEDED_MAX_ENTITIES:events.params', 'too many parameters');
	is($debug->($events->({ name => 'x', params => { value => '1', currency => 'EURO' } })), join(' ', sort('VALUE_INVALID:events.params.value', 'VALUE_INVALID:events.params.currency')), 'value and currency');
	is($debug->('{"client_id":"1","events":[{"name":"x","params":{"a":1,"a":2}}]}'), 'NAME_DUPLICATED:events.params', 'a name twice');
	is($debug->($events->(map { { name => 'x' } } 1 .. 26)), 'EXCEEDED_MAX_ENTITIES:events', 'too many events');
	is($debug->({ client_id => '1', events => [], user_properties => { ('u' x 25) => { value => 'x' x 37 }, user_id => { value => 1 } } }),
		'NAME_RESERVED:user_properties NAME_INVALID:user_properties VALUE_OUT_OF_BOUNDS:user_properties', 'user properties');
	is($debug->({}), 'VALUE_REQUIRED:client_id VALUE_REQUIRED:events', 'nothing');
	is($debug->({ client_id => '1', events => [] }, '?firebase_app_id=1'), 'VALUE_REQUIRED:app_instance_id', 'an app');
	is($debug->({ client_id => '1', events => [] }, ''), 'VALUE_REQUIRED:measurement_id', 'no stream');
	is($debug->('{'), 'VALUE_INVALID:', 'no JSON');
	is(fresh('count(*)'), '0', 'nothing is stored');
	is(sql("SELECT sum(received) - sum(stored + duplicate + failed + withheld) FROM cdi.pipeline_counts"), '0', 'nor counted');
};

subtest 'gtag' => sub {
	my $shared = '/g/collect?v=2&tid=G-SHOP&cid=9.8&uid=u9&sid=55&dl=https%3A%2F%2Fshop.example%2F%3Futm_source%3Dx&dt=A%20B&dr=https%3A%2F%2Fwww.google.com%2F'
	  . '&ul=de-de&sr=1280x720&gcs=G101&gcd=13p3t3q2r5&cs=y&uap=Linux&uapv=6.1&uamb=0&_p=1';
	my $answer = http_post($port, $shared, { 'Content-Type' => 'text/plain;charset=UTF-8' },
		"en=page_view&_s=1\r\nen=purchase&_s=2&ep.transaction_id=T%26T&epn.value=19.90&epn.odd=1.&cu=EUR&up.plan=pro&upn.age=41"
		. "&pr1=idA~~1~nmGr%C3%B6%C3%9Fe~pr9.95~qt2~c2x~vaXL~k0color~v0red~zzq&pr2=idB\n\nen=quit&dt=&uid=\n");
	is("$answer->{status} " . length $answer->{body}, '204 0', 'several events in one body');
	is(fresh("type, event, user_id, anonymous_id, \"timestamp\" = received_at, sent_at, traits, context #>> '{google,_s}', context #>> '{page,title}'"), join("\n",
		'page||u9|9.8|t|||1|A B', 'track|purchase|u9|9.8|t||{"age": 41, "plan": "pro"}|2|A B', 'track|quit||9.8|t||||'), 'one call each, with what they share');
	is(sql("SELECT properties FROM cdi.events WHERE event = 'purchase' AND anonymous_id = '9.8'"),
		'{"odd": "1.", "items": [{"zz": "q", "color": "red", "price": 9.95, "item_id": "A~1", "quantity": 2, "item_name": "Größe", "item_variant": "XL", "item_category2": "x"}, {"item_id": "B"}], "value": 19.90, "currency": "EUR", "transaction_id": "T&T"}',
		'parameters and items');
	is_deeply($json->decode(sql("SELECT context - 'userAgent' FROM cdi.events WHERE anonymous_id = '9.8' AND type = 'page'")),
		{ ip => '127.0.0.1', sessionId => '55', locale => 'de-de', screen => { width => 1280, height => 720 }, campaign => { source => 'y' },
		  page => { url => 'https://shop.example/?utm_source=x', title => 'A B', referrer => 'https://www.google.com/' },
		  consent => { ad_storage => 'denied', analytics_storage => 'granted', ad_user_data => 'denied', ad_personalization => 'granted' },
		  userAgentData => { platform => 'Linux', platformVersion => '6.1', mobile => JSON::PP::false },
		  google => { v => '2', tid => 'G-SHOP', sid => '55', gcs => 'G101', gcd => '13p3t3q2r5', _p => '1', _s => '1' } }, 'context');

	$answer = http_get($port, '/g/collect?v=2&tid=G-SHOP&cid=9.8&en=image&epn.x=-1e2');
	is($answer->{status}, 204, 'GET');
	like($answer->{headers}{'cache-control'}, qr/no-store/, 'that no cache answers');
	is(fresh("event, properties->>'x'"), 'image|-100', 'its event');
	http_get($port, '/g/collect?v=2&tid=G-SHOP&cid=9.8&en=screen_view&ep.screen_name=Start&ep.app_name=Shop');
	is(fresh('type, event, properties'), 'screen|Start|{"app_name": "Shop", "screen_name": "Start"}', 'a screen has its name');
	is(http_post($port, '/g/collect?v=2&tid=G-SHOP&cid=9.8&en=beacon', {}, '')->{status}, 204, 'a POST with an empty body');
	is(fresh('event'), 'beacon', 'its event');
	is(http_raw($port, "POST /g/collect?v=2&tid=G-SHOP&cid=9.8&en=bare HTTP/1.1\r\nHost: x\r\n\r\n")->{status}, 204, 'POST without a body, or a word of its length');
	is(fresh('event'), 'bare', 'has its event in the address');
	is(http_post($port, '/g/collect?v=2&tid=G-SHOP&cid=9.8', {}, "en=good\nep.x=1\nen=bad&ep.x=%FF\n")->{status}, 204, 'bad lines');
	is(fresh('event'), 'good', 'cost their neighbours nothing');
	is(sql("SELECT string_agg(sqlstate, ' ' ORDER BY failed_id) FROM (SELECT * FROM cdi.failed_events ORDER BY failed_id DESC LIMIT 2) f"), 'ZC202 ZC207', 'and are recorded');
	is(http_post($port, '/g/collect?v=2&tid=G-SHOP&cid=9.8', {}, "a\n" x 30_000)->{status}, 413, 'lines that are no events');
	is(http_get($port, '/g/collect?v=2&tid=G-OTHER&cid=1&en=x')->{status}, 401, 'an unknown stream');
};

is(sql("SELECT bool_and(received = stored + duplicate + failed + withheld) FROM cdi.pipeline_counts"), 't', 'every event is accounted for');
$node->stop;
done_testing();
