# The dialects of Amplitude and Mixpanel, where their SDKs do not go: errors,
# requests of which some events are bad, and the older forms of requests.
use strict;
use warnings;

use Compress::Zlib;
use JSON::PP;
use MIME::Base64;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use CdiHttp;

my ($node, $port, $db) = collector_node('dialects', <<CONF);
cdi.collector_max_body = 64kB
cdi.ingest_max_event = 16kB
CONF
my $key = $node->safe_psql($db, "SELECT cdi_create_source('app')");
ok(http_wait($port), 'the collector answers /health');

my $json = JSON::PP->new->utf8->canonical;

sub sql
{
	return $node->safe_psql($db, $_[0]);
}

# Columns of the event with a message id, as psql writes them
sub event
{
	my ($message_id, $columns) = @_;
	return sql("SELECT $columns FROM cdi.events WHERE message_id = '$message_id'");
}

sub amplitude
{
	my ($body, $path, $headers) = @_;
	return http_post($port, $path || '/2/httpapi', $headers, $body);
}

sub base64 { return encode_base64($_[0], '') }

#
# Amplitude
#
my @user = (user_id => 'u-1', device_id => 'd-1');
my $answer = amplitude(
	{
		api_key => $key,
		client_upload_time => '2026-01-31T12:00:10.000Z',
		events => [
			{
				@user, event_type => 'Order Completed', insert_id => 'a-1', time => 1769860800500,
				event_properties => { tax => 0.1, '$revenue' => 42 },
				user_properties => { plan => 'pro', '$add' => { visits => 1 } },
				app_version => '1.2', os_name => 'ios', os_version => '18.0', device_model => 'iPhone17,1',
				carrier => 'Telekom', country => 'Germany', city => 'Jena', location_lat => 50.9,
				language => 'de', ip => '203.0.113.7', idfv => 'IDFV', adid => 'ADID', session_id => 7,
				library => 'amplitude-swift/1.0/2', platform => 'iOS', plan => { branch => 'main' },
			} ]
	});
is($answer->{status}, 200, 'an event is taken');
is($answer->{json}{events_ingested}, 1, '... and counted');
like($answer->{json}{server_upload_time}, qr/^\d{13}$/, '... with the time in milliseconds');
ok($answer->{json}{payload_size_bytes} > 100, '... and its size');
is(event('a-1', q{type, event, user_id, anonymous_id, original_timestamp AT TIME ZONE 'UTC', sent_at AT TIME ZONE 'UTC'}),
	'track|Order Completed|u-1|d-1|2026-01-31 12:00:00.5|2026-01-31 12:00:10', 'who, what, when');
is(event('a-1', q{properties, traits}),
	'{"tax": 0.1, "revenue": 42, "$revenue": 42}|{"plan": "pro"}', 'properties and traits');
is(event('a-1', q{context - 'amplitude'}),
	'{"ip": "203.0.113.7", "os": {"name": "ios", "version": "18.0"}, "app": {"version": "1.2"},'
	  . ' "device": {"id": "IDFV", "type": "ios", "model": "iPhone17,1", "advertisingId": "ADID"}, "locale": "de",'
	  . ' "library": {"name": "amplitude-swift/1.0", "version": "2"}, "network": {"carrier": "Telekom"},'
	  . ' "location": {"city": "Jena", "country": "Germany", "latitude": 50.9}, "sessionId": 7}',
	'what Segment has a name for');
is(event('a-1', q{context -> 'amplitude'}),
	'{"plan": {"branch": "main"}, "platform": "iOS", "user_properties": {"$add": {"visits": 1}, "plan": "pro"}}',
	'what it has none for');

amplitude(
	{
		api_key => $key,
		events => [
			{ device_id => 'd-a', event_type => 'Opened', insert_id => 'a-android', platform => 'ANDROID', android_id => 'AID' },
			{ device_id => 'd-b', event_type => 'Opened', insert_id => 'a-by-id', android_id => 'AID' },
			{ device_id => 'd-w', event_type => 'Opened', insert_id => 'a-web', platform => 'Web', os_name => 'iOS' },
		] });
is(sql(q{SELECT string_agg(coalesce(context #>> '{device,type}', '-'), ' ' ORDER BY message_id) FROM cdi.events
	WHERE message_id IN ('a-android', 'a-by-id', 'a-web')}), 'android android -', 'whose id the device has');
sql('SELECT cdi_resolve()');
is(sql(q{SELECT cdi_person('anonymous_id', 'd-a') = cdi_person('android.id', 'AID'),
	cdi_person('anonymous_id', 'd-a') = cdi_person('anonymous_id', 'd-b')}), 't|t', '... identifies its person');

amplitude(
	qq({"api_key": "$key", "events": {"user_id": 17, "event_type": "Bought", "insert_id": "a-2",
		"price": 0.10, "quantity": 3, "productId": "p", "session_id": -1, "ip": "\$remote"}}),
	undef, { 'User-Agent' => 'app/1' });
is(event('a-2', q{user_id, properties, context}),
	'17|{"price": 0.10, "revenue": 0.30, "quantity": 3, "productId": "p"}|'
	  . '{"ip": "127.0.0.1", "amplitude": {"session_id": -1}, "userAgent": "app/1"}',
	'a number as id, exact revenue, the address of the request');
amplitude(
	qq({"api_key": "$key", "events": [
		{"user_id": "u-1", "event_type": "b", "insert_id": "a-3", "price": -12345678901.99, "quantity": 10000000000000},
		{"user_id": "u-1", "event_type": "b", "insert_id": "a-4", "price": -0.05},
		{"user_id": "u-1", "event_type": "b", "insert_id": "a-5", "price": 1e3, "quantity": 2},
		{"user_id": "u-1", "event_type": "b", "insert_id": "a-6", "price": 5, "event_properties": {"revenue": 9}}]}));
is(sql(q{SELECT string_agg(coalesce(properties->>'revenue', '-'), ' ' ORDER BY message_id) FROM cdi.events
	WHERE message_id IN ('a-3', 'a-4', 'a-5', 'a-6')}), '- -0.05 - 9', 'no revenue is better than a wrong one');

amplitude(
	{
		api_key => $key,
		events => [
			{
				@user, event_type => '[Amplitude] Page Viewed', insert_id => 'a-7',
				event_properties => {
					'[Amplitude] Page Title' => 'Home', '[Amplitude] Page Path' => '/',
					'[Amplitude] Page Location' => 'https://shop.example/?gclid=x',
					utm_source => 'mail', referrer => 'https://www.example.org/'
				} },
			{
				device_id => 'd-1', event_type => '$groupidentify', insert_id => 'a-8',
				groups => { org => [ 'acme', 'initech' ] },
				group_properties => { '$set' => { seats => 5 }, '$unset' => { old => '-' } },
			} ]
	}, '/batch');
is(event('a-7', q{type, event, page_host, click_id_type, campaign_source, referrer_host, properties->>'url'}),
	'page|Home|shop.example|gclid|mail|www.example.org|https://shop.example/?gclid=x', 'a page');
is(event('a-8', q{type, group_id, anonymous_id, traits, context}),
	'group|acme|d-1|{"seats": 5}|{"amplitude": {"groups": {"org": ["acme", "initech"]},'
	  . ' "group_properties": {"$set": {"seats": 5}, "$unset": {"old": "-"}}}, "groupType": "org"}', 'a group');
sql('SELECT cdi_resolve()');
is(sql(q(SELECT l.types, l."values", l.member = e.subject FROM cdi.identity_links l JOIN cdi.events e USING (event_id) WHERE e.message_id = 'a-8')),
	'{group_id}|{org:acme}|t', 'is an account of its kind, with the device as member');

$answer = amplitude(
	{
		api_key => $key,
		events => [
			{ @user, event_type => 'Good', insert_id => 'a-9' }, { event_type => 'Nobody' },
			{ @user, event_type => 'Never', time => 'soon' } ]
	});
is($answer->{status} . ' ' . $answer->{json}{events_ingested}, '200 1', 'bad events do not cost their neighbours anything');
is(sql('SELECT count(*) FROM cdi.failed_events'), '2', '... and are kept');
$answer = amplitude(
	{
		api_key => $key,
		events => [
			{ event_type => 'Nobody' }, { @user, event_type => 'Never', time => 'soon' }, { @user },
			{ @user, event_type => 'x', user_properties => [] }, 7 ]
	});
delete $answer->{json}{error};
is($answer->{status} . ' ' . $json->encode($answer->{json}),
	'400 {"code":400,"events_with_invalid_fields":{"event":[3,4],"time":[1]},"events_with_invalid_id_lengths":{},'
	  . '"events_with_missing_fields":{"event_type":[2],"user_id":[0]},"missing_field":null,"silenced_devices":[],"silenced_events":[]}',
	'a request without a good event names each');
$answer = amplitude({ api_key => $key, events => [ map { { event_type => 'Nobody' } } 1 .. 120 ] });
is(scalar map({ @$_ } map({ values %{ $answer->{json}{$_} } } qw(events_with_invalid_fields events_with_missing_fields))),
	120, '... even where there are more than are listed one by one');

$answer = amplitude({ api_key => 'nobody', events => [ {@user} ] });
is($answer->{status}, 401, 'an unknown key');
like($answer->{json}{error}, qr/^Invalid API key/, '... in words that SDKs know');
$answer = amplitude({ api_key => $key });
is("$answer->{status} $answer->{json}{code} $answer->{json}{missing_field}", '400 400 events', 'no events');
for my $body (qq({"api_key": "$key", "events": [), qq({"api_key": "$key", "events": 5}), '', '[]', 'x', '{"api_key"')
{
	$answer = amplitude($body);
	is( $answer->{json} && ref $answer->{json}{events_with_invalid_fields} ? 'answered' : $answer->{body},
		'answered', "no request: $body");
}
my $big = { api_key => $key, events => [ map { { @user, event_type => 'x' x 1000 } } 1 .. 100 ] };
for my $path ('/2/httpapi', '/batch')
{
	$answer = amplitude($json->encode($big), $path);
	is("$answer->{status} $answer->{json}{code}", '413 413', "too large for $path");
}
$answer = amplitude({ api_key => $key, events => [ { @user, event_type => 'x' x 20000 } ] });
is("$answer->{status} $answer->{json}{code}", '413 413', 'one event that is too large');
$answer = amplitude(Compress::Zlib::memGzip(qq({"api_key":"$key","events":[{"user_id":"u-1","event_type":"Zipped","insert_id":"a-z"}]})),
	undef, { 'Content-Encoding' => 'gzip' });
is($answer->{status} . event('a-z', 'event'), '200Zipped', 'gzip');
$answer = amplitude({ batch => [ {} ] }, '/batch');
isnt($answer->{status}, 200, '/batch without "events" is not Amplitude\'s');

# Forms, as SDKs before 2022 and the older APIs send them
sub form
{
	my ($path, %fields) = @_;
	my $body = join('&', map { "$_=" . ($fields{$_} =~ s/([^A-Za-z0-9.-])/sprintf '%%%02X', ord $1/ger) } sort keys %fields);
	return http_post($port, $path, { 'Content-Type' => 'application/x-www-form-urlencoded; charset=UTF-8' }, $body);
}
$answer = form('/', client => $key, v => 2, checksum => '0', upload_time => '1769860810000',
	e => $json->encode([ {
		@user, event_type => 'Clicked', uuid => 'a-f1', timestamp => 1769860800500, event_properties => { note => 'a+b&c' },
		library => { name => 'amplitude-js', version => '8.21.9' }, groups => {}, sequence_number => 3
	}, {
		@user, event_type => '$identify', uuid => 'a-f2', timestamp => 1769860800500,
		user_properties => { '$set' => { utm_source => 'mail', utm_campaign => 'spring', referrer => 'https://www.example.org/' } }
	} ]));
is("$answer->{status} $answer->{headers}{'content-type'} $answer->{body}", '200 text/plain success', 'a form, and the word its SDKs compare with');
is(event('a-f1', q{event, properties, context #>> '{library,name}', context->>'ip', context->'amplitude', original_timestamp AT TIME ZONE 'UTC', sent_at AT TIME ZONE 'UTC'}),
	'Clicked|{"note": "a+b&c"}|amplitude-js|127.0.0.1|{"groups": {}, "sequence_number": 3}|2026-01-31 12:00:00.5|2026-01-31 12:00:10', 'its event');
is(event('a-f2', 'type, campaign_source, campaign_name, referrer_host'), 'identify|mail|spring|www.example.org', 'where a person came from');
form('/httpapi', api_key => $key, event => $json->encode({ @user, event_type => 'Old', insert_id => 'a-f3', time => 1769860800500 }));
is(event('a-f3', 'event'), 'Old', '/httpapi');
form('/identify', api_key => $key, identification => $json->encode([ { @user, insert_id => 'a-f4', user_properties => { plan => 'pro' } } ]));
is(event('a-f4', 'type, traits'), 'identify|{"plan": "pro"}', '/identify');
form('/groupidentify', api_key => $key, identification => $json->encode({ group_type => 'org', group_value => 'acme', insert_id => 'a-f5', group_properties => { seats => 5 } }));
is(event('a-f5', q{type, group_id, traits, context #>> '{amplitude,group_type}'}), 'group|acme|{"seats": 5}|org', '/groupidentify');
is(sql(q(SELECT count(*) FROM cdi.identity_links WHERE '{group_id}' = types AND "values" = '{org:acme}')), '2', 'is the same account');
is_deeply([ map { "$_->{status} $_->{body}" } form('/', client => 'nobody', e => '[]'), form('/', client => $key, e => '[') ],
	[ '401 invalid_api_key', '400 the body is not what this path takes in valid JSON' ], 'what a form is refused with');
is(http_post($port, '/', undef, 'a=b')->{status}, 404, 'any other body at the root');

# What came in is what a replay reads.
sql(q{ALTER TABLE cdi.events ADD CONSTRAINT no CHECK (event <> 'Late')});
amplitude({ api_key => $key, client_upload_time => '2026-01-31T12:00:10Z',
	events => [ { @user, event_type => 'Late', insert_id => 'a-late', time => 1769860800500 } ] });
sql(q{ALTER TABLE cdi.events DROP CONSTRAINT no; SELECT cdi_replay(source => 'app')});
is(event('a-late', q{event, sent_at AT TIME ZONE 'UTC'}), 'Late|2026-01-31 12:00:10', 'a replay has the envelope');

#
# Mixpanel
#
sub track
{
	my ($event, %properties) = @_;
	return { event => $event, properties => { token => $key, distinct_id => 'm-1', %properties } };
}

my $data = base64($json->encode(track('Viewed', '$insert_id' => 'm-1', time => 1769860800.25, '$current_url' => 'https://shop.example/a',
	'$os' => 'Linux', '$screen_width' => 1920, '$referrer' => '$direct', mp_lib => 'web', '$lib_version' => '2.1')));
my $query = $data =~ s/([+\/=])/sprintf '%%%02X', ord $1/ger;
$answer = http_get($port, "/track?data=$query");
is("$answer->{status} $answer->{body}", '200 1', 'GET');
is(event('m-1', q{type, event, user_id, original_timestamp AT TIME ZONE 'UTC', page_host, properties ? 'token', context}),
	'track|Viewed|m-1|2026-01-31 12:00:00.25|shop.example|f|{"os": {"name": "Linux"}, "page": {"url": "https://shop.example/a"},'
	  . ' "screen": {"width": 1920}, "library": {"name": "web", "version": "2.1"}}', 'who, what, when, where');
$answer = http_get($port, "/track?verbose=1&data=$query");
is($json->encode($answer->{json}), '{"error":null,"status":1}', 'verbose=1');
$answer = http_get($port, "/track?img=1&data=$query");
is("$answer->{headers}{'content-type'} " . length($answer->{body}) . ' ' . substr($answer->{body}, 0, 6), 'image/gif 43 GIF89a', 'img=1');

my %forms = (
	'form, padding as it is' => [ '/track/', "data=$data" ],
	'form, verbose inside' => [ '/track', "ip=1&data=$query&verbose=1" ],
	'form, JSON' => [ '/track', 'data=' . $json->encode([ track('Viewed', '$insert_id' => 'm-1') ]) ],
	'array' => [ '/track?verbose=0', $json->encode([ track('Viewed', '$insert_id' => 'm-1') ]) ],
	'object' => [ '/track', $json->encode(track('Viewed', '$insert_id' => 'm-1')) ],
);
for my $name (sort keys %forms)
{
	$answer = http_post($port, $forms{$name}[0], {}, $forms{$name}[1]);
	is($answer->{body}, $name =~ /verbose/ ? '{"status":1,"error":null}' : '1', $name);
}
is(sql(q{SELECT count(*) FROM cdi.events WHERE message_id = 'm-1'}), '1', '... is stored once');

# mixpanel-browser encodes UTF-16 unit by unit: U+1F6D2 in six bytes (CESU-8,
# Unicode Technical Report 26), here beside U+D7FF, U+E000 and U+10FFFF
my $halves = $json->encode(track('Emoji', '$insert_id' => 'm-cesu', note => 'NOTE'));
$halves =~ s/NOTE/\xed\xa0\xbd\xed\xbb\x92\xed\x9f\xbf\xee\x80\x80\xed\xaf\xbf\xed\xbf\xbf/;
$answer = http_post($port, '/track', {}, 'data=' . base64($halves));
is("$answer->{status} $answer->{body}", '200 1', 'surrogate pairs in base64');
is(sql(q{SELECT properties->>'note' = U&'\+01F6D2\D7FF\E000\+10FFFF' FROM cdi.events WHERE message_id = 'm-cesu'}), 't', 'are the characters that they stand for');
$halves =~ s/\xed\xbb\x92//;
$halves =~ s/\xed\xaf\xbf//;
$halves =~ s/m-cesu/m-half/;
is(http_post($port, '/track', {}, 'data=' . base64($halves))->{status}, 200, 'halves of pairs');
is(sql(q{SELECT properties->>'note' = U&'\FFFD\D7FF\E000\FFFD' FROM cdi.events WHERE message_id = 'm-half'}), 't', 'are one replacement character each');

http_post($port, '/track?ip=1', { 'User-Agent' => 'page/1' },
	[
		track('a', '$insert_id' => 'm-2', distinct_id => '$device:x', '$device_id' => 'x', time => 1769860800250),
		track('b', '$insert_id' => 'm-3', distinct_id => 'm-1', '$device_id' => 'x', '$user_id' => 'm-1'),
		track('c', '$insert_id' => 'm-4', distinct_id => 'x', '$device_id' => 'x'),
		track('$mp_web_page_view', '$insert_id' => 'm-5', current_page_title => 'Home', '$current_url' => 'https://shop.example/', utm_source => 'mail'),
		track('$identify', '$insert_id' => 'm-6', '$identified_id' => 'm-1', '$anon_id' => '$device:x'),
		track('$identify', '$insert_id' => 'm-7', distinct_id => 'm-1', '$anon_distinct_id' => 'y'),
		track('$create_alias', '$insert_id' => 'm-8', distinct_id => 'z', alias => 'm-1'),
		track('$merge', '$insert_id' => 'm-9', api_key => $key, '$distinct_ids' => [ '$device:w', 'm-1' ]),
	]);
is(sql(q{SELECT string_agg(concat_ws('/', type, event, user_id, anonymous_id, previous_id), ' ' ORDER BY message_id)
	FROM cdi.events WHERE message_id BETWEEN 'm-2' AND 'm-9' AND length(message_id) = 3}),
	'track/a/x track/b/m-1/x track/c/x page/Home/m-1 identify/m-1/x identify/m-1/y alias/m-1/z alias/m-1/w',
	'whose an event is');
is(event('m-2', q{original_timestamp AT TIME ZONE 'UTC', context}),
	'2026-01-31 12:00:00.25|{"ip": "127.0.0.1", "userAgent": "page/1"}', 'milliseconds; ip=1 is the address of the sender');
is(event('m-5', q{properties->>'url', campaign_source}), 'https://shop.example/|mail', 'a page');

is(event('m-9', q{properties ? 'api_key'}), 'f', 'a key under its older name is not kept');

$answer = http_post($port, '/engage', {},
	[
		{ '$token' => $key, '$distinct_id' => 'm-1', '$ip' => '0', '$insert_id' => 'm-e1', '$time' => 1769860800,
			'$set' => { '$email' => 'a@example.com', '$name' => 'Ada', name => 'own' }, '$set_once' => { first => 1 } },
		{ '$token' => $key, '$distinct_id' => 'm-1', '$insert_id' => 'm-e2', '$union' => { tags => ['a'] }, '$ignore_time' => JSON::PP::true },
	]);
is($answer->{body}, '1', 'profiles');
is(event('m-e1', q{type, user_id, traits, context, original_timestamp AT TIME ZONE 'UTC'}),
	'identify|m-1|{"name": "own", "$name": "Ada", "email": "a@example.com", "first": 1, "$email": "a@example.com"}|'
	  . '{"mixpanel": {"$set_once": {"first": 1}}}|2026-01-31 12:00:00', '... with what is set');
is(event('m-e2', q{type, traits, context}),
	'identify||{"mixpanel": {"$union": {"tags": ["a"]}, "$ignore_time": true}}', '... and what is not');
http_post($port, '/groups', {},
	[ { '$token' => $key, '$group_key' => 'company', '$group_id' => 12, '$insert_id' => 'm-g', '$set' => { name => 'Acme' } } ]);
is(event('m-g', q{type, group_id, user_id, subject, traits, context}),
	'group|12|||{"name": "Acme"}|{"mixpanel": {"$group_key": "company"}}', 'a group of nobody');
is(sql(q(SELECT l.types, l."values", l.traits, l.member IS NULL FROM cdi.identity_links l JOIN cdi.events e USING (event_id) WHERE e.message_id = 'm-g')),
	'{group_id}|{company:12}|{"name": "Acme"}|t', 'is an account of its kind, without a member');

# Some good, some bad
my @mixed = (track('Good', '$insert_id' => 'm-i1', time => 1), track('Never', '$insert_id' => 'm-i2', time => 'soon'),
	{ event => 'Nobody', properties => { token => $key, '$insert_id' => 'm-i3', time => 1 } }, { event => 'Nothing' });
$answer = http_post($port, '/track?verbose=1', {}, [ @mixed ]);
is("$answer->{status} $answer->{json}{status}", '200 1', 'bad events do not cost their neighbours anything');
ok($answer->{json}{error}, '... but are told of');
$answer = http_post($port, '/track', {}, [ @mixed[1, 2] ]);
is("$answer->{status} $answer->{body}", '400 0', 'nothing but bad events');
$answer = http_post($port, '/track?verbose=1', {}, [ @mixed[1, 2] ]);
is("$answer->{status} $answer->{json}{status}", '400 0', '... and verbose');

my $lines = join "\n", map { $json->encode($_) } @mixed;
$answer = http_post($port, '/import?strict=1&project_id=1', { basic("$key:") }, "$lines\n\n");
is($answer->{status}, 400, '/import of lines, strict');
is( join(' ', $answer->{json}{num_records_imported}, map { "$_->{index}/$_->{insert_id}/$_->{field}" } @{ $answer->{json}{failed_records} }),
	'1 1/m-i2/properties.time 2/m-i3/properties.distinct_id 3//event', '... says what failed');
$answer = http_post($port, '/import?strict=0', { basic("$key:") }, [ @mixed ]);
is($json->encode($answer->{json}), '{"code":200,"num_records_imported":1,"status":"OK"}', 'not strict');
$answer = http_post($port, '/import?strict=1', { basic("service-account:secret") }, [ $mixed[0] ]);
is($answer->{json}{status}, 'OK', 'a service account, and the token inside');
$answer = http_post($port, '/import?strict=1', { basic("$key:") }, $json->encode($mixed[0]) . "\n{\"event\": \"cut\n");
is("$answer->{status} $answer->{json}{num_records_imported}", '400 1', 'a broken line');
$answer = http_post($port, '/import', { basic('nobody:') }, [ track('x', token => 'nobody') ]);
is("$answer->{status} $answer->{json}{code}", '401 401', '/import of an unknown project');
$answer = http_post($port, '/track', {}, [ track('x', token => 'nobody') ]);
is("$answer->{status} $answer->{body}", '401 0', '/track of an unknown project');
$answer = http_post($port, '/track', {}, [ map { track('x' x 1000) } 1 .. 100 ]);
is("$answer->{status} $answer->{body}", '413 0', 'too large');
$answer = http_post($port, '/track', {}, 'data=' . base64($json->encode([ map { track('x' x 1000) } 1 .. 100 ])));
is("$answer->{status} $answer->{body}", '413 0', 'too large, as a form');

for my $body ('data=%%%', 'data=', 'x', '', '[', 'data=' . base64('{"event": "x", "properties": {"token": "' . $key . '"'))
{
	$answer = http_post($port, "/track?token=$key", {}, $body);
	is("$answer->{status} $answer->{body}", '400 0', "no request: " . substr($body, 0, 20));
}
$answer = http_post($port, "/track?token=$key", {}, '[]');
is("$answer->{status} $answer->{body}", '200 1', 'no event at all');

for my $page ([ '/settings/?sdk_config=1', '{"sdk_config":{}}' ], [ "/flags/?mp_lib=web&token=$key", '{"flags":{}}' ],
	[ "/flags/definitions?mp_lib=node&token=$key", '{"flags":[],"group_type_mapping":{},"cohorts":{}}' ])
{
	$answer = http_get($port, $page->[0], { basic("$key:") });
	is("$answer->{status} $answer->{body}", "200 $page->[1]", "GET $page->[0]" =~ s/\?.*//r);
}

# Too much of it: to be sent again
my $slow = sql(q{SELECT cdi_create_source('slow')});
sql(q{SELECT cdi_alter_source('slow', '{"rate_limit": 0.001, "rate_burst": 1}')});
is(amplitude({ api_key => $slow, events => [ { @user, event_type => 'First' } ] })->{status}, 200, 'as fast as it may be');
$answer = amplitude({ api_key => $slow, events => [ { @user, event_type => 'Second' } ] });
delete $answer->{json}{error};
is($answer->{status} . ' ' . $json->encode($answer->{json}),
	'429 {"code":429,"eps_threshold":0,"exceeded_daily_quota_devices":{},"exceeded_daily_quota_users":{},'
	  . '"throttled_devices":{},"throttled_events":[],"throttled_users":{}}', 'faster, in the form that SDKs read');
ok($answer->{headers}{'retry-after'}, '... and when to come again');
$answer = http_post($port, '/track?verbose=1', {}, [ track('Third', token => $slow) ]);
is("$answer->{status} $answer->{json}{status}", '429 0', 'and from Mixpanel');
$answer = http_post($port, '/import', {}, [ track('Third', token => $slow) ]);
is("$answer->{status} $answer->{json}{code}", '429 429', '... to /import');

is( sql(q{SELECT bool_and(received = stored + duplicate + failed + withheld),
	sum(stored) = (SELECT count(*) FROM cdi.events),
	sum(failed) = (SELECT count(*) FROM cdi.failed_events) FROM cdi.pipeline_counts}),
	't|t|t', 'accounts add up');

$node->stop;
done_testing();
