# Snowplow's tracker protocol as no tracker sends it: odd paths, broken events
# beside good ones, redirects, cookies, times.
use strict;
use warnings;

use JSON::PP;
use MIME::Base64;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use FindBin;
use lib $FindBin::RealBin;
use CdiHttp;
use CdiWait;

my ($node, $port, $db) = collector_node('snowplow', <<CONF);
cdi.collector_redirect_domains = 'shop.example, *.cdn.example'
CONF
$node->safe_psql($db, q{SELECT cdi_create_source('shop'); SELECT cdi_add_write_key('shop', 'shop-app')});
ok(http_wait($port), 'the collector answers /health');

my $tp2 = '/com.snowplowanalytics.snowplow/tp2';
my $visitor = '2c5ea3a7-44ee-4c5b-9b1e-0d6f2a8f4a11';
my $nobody = '00000000-0000-0000-0000-000000000000';
my $sequence = 0;

sub sql
{
	return $node->safe_psql($db, $_[0]);
}

# A payload with an event id of its own; members that are undef are left out.
sub payload
{
	my (%members) = @_;
	$sequence++;
	my %all = (e => 'pv', aid => 'shop-app', p => 'web', tv => 'test-1', eid => "e-$sequence",
		duid => 'duid-1', url => 'https://shop.example/', %members);
	delete $all{$_} for grep { !defined $all{$_} } keys %all;
	return \%all;
}

sub body
{
	return { schema => 'iglu:com.snowplowanalytics.snowplow/payload_data/jsonschema/1-0-4', data => [@_] };
}

sub post
{
	my ($headers, @payloads) = @_;
	return http_post($port, $tp2, $headers, body(@payloads));
}

sub query
{
	my ($members) = @_;
	return join '&', map {
		my $value = $members->{$_};
		$value =~ s/([^A-Za-z0-9._-])/sprintf '%%%02X', ord $1/ge;
		"$_=$value"
	} sort keys %$members;
}

# An expression over the event of the payload that was made last
sub last_event
{
	my ($expression) = @_;
	return sql("SELECT $expression FROM cdi.events WHERE message_id = 'e-$sequence'");
}

sub base64url
{
	my ($text) = @_;
	my $result = encode_base64($text, '');
	$result =~ tr{+/=}{-_}d;
	return $result;
}

sub self_describing
{
	my ($schema, $data) = @_;
	return encode_json({ schema => 'iglu:com.snowplowanalytics.snowplow/unstruct_event/jsonschema/1-0-0',
			data => { schema => $schema, data => $data } });
}

# Answers
my $answer = post({}, payload());
is("$answer->{status} $answer->{headers}{'content-type'} $answer->{body}", '200 text/plain ok', 'POST is answered ok');
like($answer->{headers}{'set-cookie'},
	qr/^sp=[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}; Max-Age=31536000; Path=\/; Secure; HttpOnly; SameSite=None$/,
	'a new visitor gets a cookie');
my ($cookie) = $answer->{headers}{'set-cookie'} =~ /^sp=([^;]+)/;
is(last_event("context #>> '{snowplow,network_userid}'"), $cookie, 'and the event has its value');

$answer = http_get($port, '/i?' . query(payload()));
is("$answer->{status} $answer->{headers}{'content-type'} " . length $answer->{body}, '200 image/gif 43', 'GET is answered with a pixel');
is(substr($answer->{body}, 0, 10), "GIF89a\1\0\1\0", 'of one by one');
like($answer->{headers}{'cache-control'}, qr{no-store}, 'that no cache keeps');
is(last_event("type || ' ' || (properties ->> 'url')"), 'page https://shop.example/', 'and stored');

my $address = "http://127.0.0.1:$port/ice.png?" . query(payload());
my $head = `curl -sI '$address'`;
like($head, qr/^HTTP\/1.1 200 .*^Content-Length: 43\r$/ms, 'HEAD is answered');
is(last_event('type'), 'page', 'and stored, too');

for my $path ('/com.snowplowanalytics.snowplow/tp1', '/com.acme/track', '/snowplow/a/b')
{
	$answer = http_post($port, $path, {}, body(payload()));
	is("$answer->{status} $answer->{body} " . last_event('type'), '200 ok page', "POST $path");
}
is(http_get($port, '/robots.txt')->{body}, "User-agent: *\nDisallow: /\n", '/robots.txt');
unlike(http_get($port, '/crossdomain.xml')->{body}, qr/allow-access-from/, '/crossdomain.xml allows nobody');

# Who it was
$answer = post({ Cookie => "other=1; sp=$visitor" }, payload(duid => undef));
is($answer->{headers}{'set-cookie'} =~ s/;.*//r, "sp=$visitor", 'a cookie is kept');
is(last_event('anonymous_id'), $visitor, 'and stands for the visitor where the tracker has no id');
post({ Cookie => "sp=$visitor" }, payload(duid => undef, nuid => 'n-1'));
is(last_event('anonymous_id'), 'n-1', 'nuid goes before the cookie');
post({ Cookie => "sp=$visitor" }, payload(duid => undef, nuid => 'n-1', tnuid => 't-1', ip => '203.0.113.9', ua => 'Agent/2'));
is(last_event("concat_ws(' ', anonymous_id, context #>> '{snowplow,network_userid}', context ->> 'ip', context ->> 'userAgent')"),
	't-1 t-1 203.0.113.9 Agent/2', 'tnuid goes before nuid, ip and ua before the request');
post({ Cookie => 'sp=<script>' }, payload(duid => undef, uid => 'u-1', p => 'srv'));
is(last_event("user_id || ' ' || (anonymous_id IS NULL)"), 'u-1 true', 'an id made for the request says nothing of a known user');
$answer = post({ 'SP-Anonymous' => '*', Cookie => "sp=$visitor", 'User-Agent' => 'Agent/1' }, payload(duid => undef));
ok(!exists $answer->{headers}{'set-cookie'}, 'an anonymous request gets no cookie');
is(last_event("concat_ws(' ', anonymous_id, subject, context ->> 'ip', context ->> 'userAgent', context #>> '{snowplow,network_userid}')"),
	$nobody, 'and its event is nobody\'s');
post({ 'SP-Anonymous' => '*' }, payload(duid => undef, sid => 's-1'));
is(last_event("anonymous_id || ' ' || (context ->> 'sessionId')"), 's-1 s-1', 'unless it has a session');
post({}, payload(duid => undef, co => encode_json({ schema => 'iglu:com.snowplowanalytics.snowplow/contexts/jsonschema/1-0-1',
	data => [ { schema => 'iglu:com.snowplowanalytics.snowplow/client_session/jsonschema/1-0-2',
			data => { userId => 'device-1', sessionId => 'session-1' } } ] })));
is(last_event("anonymous_id || ' ' || (context ->> 'sessionId')"), 'device-1 session-1', 'a mobile tracker has its ids in a context');

# Where a person came from to an app: entities of mobile trackers
sub entity
{
	my ($schema, $data) = @_;
	return encode_json({ schema => 'iglu:com.snowplowanalytics.snowplow/contexts/jsonschema/1-0-1',
		data => [ { schema => "iglu:$schema", data => $data } ] });
}

my $from = "concat_ws(' ', event, campaign_source, campaign_medium, click_id_type, page_host, referrer_host)";
my %link = (url => 'https://shop.example/a?utm_source=news&utm_medium=email', referrer => 'https://www.google.com/');
my %install = (installReferrer => 'utm_source=google-play&utm_medium=organic&gclid=x');
post({}, payload(e => 'ue', p => 'mob', url => undef, ue_pr => self_describing('iglu:com.snowplowanalytics.mobile/deep_link_received/jsonschema/1-0-0', \%link)));
is(last_event($from), 'deep_link_received news email shop.example www.google.com', 'a deep link');
post({}, payload(e => 'ue', p => 'mob', url => 'https://shop.example/b', ue_pr => self_describing('iglu:com.acme/deep_link_received/jsonschema/1-0-0', \%link)));
is(last_event($from), 'deep_link_received shop.example', 'and an event of the same name');
post({}, payload(e => 'ue', p => 'mob', url => undef, co => entity('com.snowplowanalytics.mobile/deep_link/jsonschema/1-0-0', \%link),
	ue_pr => self_describing('iglu:com.snowplowanalytics.mobile/screen_view/jsonschema/1-0-0', { name => 'Home' })));
is(last_event($from), 'Home news email shop.example www.google.com', 'the screen that it led to');
post({}, payload(e => 'ue', p => 'mob', url => undef, co => entity('com.android.installreferrer.api/referrer_details/jsonschema/1-0-0', \%install),
	ue_pr => self_describing('iglu:com.snowplowanalytics.mobile/application_install/jsonschema/1-0-0', {})));
is(last_event($from), 'application_install google-play organic gclid', 'what Google Play says of an install');

# Kinds of events, and what becomes of numbers
post({}, payload(e => 'tr', tr_id => 'o-1', tr_tt => '19.90', tr_tx => '1e999999', tr_sh => 'free', tr_cu => 'EUR'));
is(last_event("event || ' ' || properties::text"),
	'transaction {"tax": "1e999999", "total": 19.90, "currency": "EUR", "order_id": "o-1", "shipping": "free"}', 'transaction');
post({}, payload(e => 'ti', ti_id => 'o-1', ti_sk => 'a-1', ti_na => 'Hat', ti_pr => '9.95', ti_qu => '2'));
is(last_event("event || ' ' || properties::text"),
	'transaction_item {"sku": "a-1", "name": "Hat", "price": 9.95, "order_id": "o-1", "quantity": 2}', 'its item');
post({}, payload(e => 'pp', pp_mix => '0', pp_max => '10', pp_miy => '-5', pp_may => '007'));
is(last_event("event || ' ' || (properties - '{url,path}'::text[])"),
	'page_ping {"pp_xoffset_max": 10, "pp_xoffset_min": 0, "pp_yoffset_max": "007", "pp_yoffset_min": -5}', 'page ping');
post({}, payload(e => 'new', future => 'yes', deep => { a => [1] }));
is(last_event("event || ' ' || (context -> 'snowplow' -> 'deep') || (context #>> '{snowplow,future}')"), 'new {"a": [1]}yes',
	'an event and parameters from after this was written');
http_post($port, "$tp2?cv=7&writeKey=secret", {}, { %{ body(payload()) }, batchId => 5 });
is(last_event("concat_ws(' ', context #>> '{snowplow,cv}', context #>> '{snowplow,envelope,batchId}', context #>> '{snowplow,writeKey}')"),
	'7 5', 'parameters of the address, further members of the body');
post({}, payload(e => 'ue', ue_px => base64url(self_describing('iglu:com.acme/list/jsonschema/1-0-0', [ 1, 2 ]))));
is(last_event("event || ' ' || properties::text"), 'list {"data": [1, 2]}', 'data that is no object');

# Times
my $now = int(time * 1000);
my $ago = q{round(extract(epoch FROM received_at - "timestamp"))};
post({}, payload(dtm => $now - 3600_000, stm => $now - 1800_000));
is(last_event($ago), 1800, 'received - (stm - dtm)');
post({}, payload(dtm => $now, stm => $now - 900));
is(last_event("$ago || ' ' || (original_timestamp IS NOT NULL)"), '0 true', 'no time lies between a dtm and an earlier stm');
post({}, payload(dtm => $now - 3600_000));
is(last_event("$ago || ' ' || (context #>> '{snowplow,dtm}')"), '0 ' . ($now - 3600_000), 'dtm alone is kept, not trusted');
post({}, payload(dtm => $now, stm => $now, ttm => '1777863721123'));
is(last_event(q{"timestamp" AT TIME ZONE 'UTC'}), '2026-05-04 03:02:01.123', 'ttm is the time');

# Broken events beside good ones
my $first = $sequence + 1;
$answer = post({}, payload(), payload(cx => '!!'), payload(cx => base64url('{"data":[')),
	payload(co => '{"schema":"x","data":{}}'), payload(e => 'ue'), payload(e => 'ue', ue_pr => '{"data":{"data":{}}}'),
	payload(e => undef), 5, payload(dtm => 'yesterday'), payload(ue_px => 'A', e => 'ue'), payload(url => "a\0b"), payload());
is("$answer->{status} $answer->{body}", '200 ok', 'broken events are no reason to send the others again');
is(sql(qq{SELECT string_agg(message_id, ' ') FROM (SELECT message_id FROM cdi.events
	WHERE substr(message_id, 3)::int >= $first ORDER BY position) AS e}), "e-$first e-$sequence", 'which are stored');
is(sql(q{SELECT string_agg(sqlstate || ' ' || message, E'\n' ORDER BY failed_id) FROM cdi.failed_events}), <<'FAILED' =~ s/\n\z//r, 'and each says what is wrong with it');
ZC202 "cx" is no base64
ZC201 "cx" is no JSON object
ZC202 "co" has no array of contexts in its "data"
ZC202 the self-describing event has neither "ue_pr" nor "ue_px"
ZC202 the self-describing event has no schema
ZC202 the event has no "e"
ZC202 event must be a JSON object
ZC205 "dtm" is no time in milliseconds since 1970
ZC202 "ue_px" is no base64
22P05 unsupported Unicode escape sequence
FAILED
sql(q{UPDATE cdi.failed_events SET payload = convert_to(replace(convert_from(payload, 'UTF8'), 'yesterday', '1777863721123'), 'UTF8') WHERE sqlstate = 'ZC205'});
is(sql(q{SELECT stored, failed FROM cdi_replay(source => 'shop')}), '1|9', 'a repaired event is replayed');
post({}, payload(eid => 'e-1'));
is(sql(q{SELECT duplicate FROM cdi.pipeline_counts WHERE source = 'shop'}), 1, 'an event id counts once');

# Requests that are none
for my $case (
	[ '{"data":', 'invalid_json', 'half a body' ],
	[ '{"data":[]}', 'invalid_event', 'no events' ],
	[ '{"data":{}}', 'invalid_event', 'no array' ],
	[ 'e=pv', 'invalid_json', 'a form' ])
{
	my ($text, $code, $name) = @$case;
	$answer = http_post($port, "$tp2?aid=shop-app", {}, $text);
	is("$answer->{status} $answer->{json}{code}", "400 $code", $name);
}
is(http_get($port, '/i?aid=other&e=pv')->{status}, 401, 'an unknown application');
$answer = http_post($port, $tp2, {}, body(payload(aid => undef)));
is("$answer->{status} $answer->{json}{code}", '401 missing_write_key', 'none');
# The collector starts anew with the setting.
sql("ALTER DATABASE $db SET cdi.collector_default_source = 'shpo'");
sub becomes
{
	my ($code) = @_;
	wait_until(sub {
		$answer = eval { http_post($port, $tp2, {}, body(payload(aid => undef))) } || { status => 0 };
		return ($answer->{json}{code} || $answer->{status}) eq $code;
	});
}
becomes('unknown_default_source');
is("$answer->{status} $answer->{json}{code} $answer->{headers}{'retry-after'}", '503 unknown_default_source 1', 'a default source that there is not costs no event');
sql("ALTER DATABASE $db SET cdi.collector_default_source = 'shop'");
becomes(200);
is("$answer->{status} " . last_event('type'), '200 page', 'with a default source it needs none');

# Self-describing requests
my $iglu = '/com.snowplowanalytics.iglu/v1';
my $schema = 'iglu:com.acme/order/jsonschema/1-0-0';
my $order = q{concat_ws(' ', event, properties, user_id, context #>> '{snowplow,schema}')};
http_post($port, "$iglu?aid=shop-app&uid=u-2&eid=e-" . ++$sequence, {}, { schema => $schema, data => { total => 5 } });
is(last_event($order), "order {\"total\": 5} u-2 $schema", 'a self-describing body');
http_post($port, "$iglu?aid=shop-app&uid=u-2&schema=$schema&eid=e-" . ++$sequence, {}, '{"total": 1.50}');
is(last_event($order), "order {\"total\": 1.50} u-2 $schema", 'whose schema is in the address');
http_get($port, "$iglu?aid=shop-app&uid=u-2&schema=$schema&total=5&eid=e-" . ++$sequence);
is(last_event($order), "order {\"total\": \"5\"} u-2 $schema", 'the same by GET');

# Redirects
sub redirect
{
	my ($to, %members) = @_;
	my $reply = http_get($port, '/r/tp2?' . query({ aid => 'shop-app', eid => 'e-' . ++$sequence, duid => 'd-2', defined $to ? (u => $to) : (), %members }));
	return $reply->{status} . ' ' . ($reply->{headers}{location} || '-');
}
is(redirect('https://shop.example/a?b=c d'), '302 https://shop.example/a?b=c%20d', 'a redirect');
is(last_event("event || ' ' || properties::text"), 'uri_redirect {"uri": "https://shop.example/a?b=c d"}', 'is an event');
is(redirect('HTTP://img.CDN.example:8080', e => 'se', se_ca => 'Mail', se_ac => 'click'), '302 HTTP://img.CDN.example:8080', 'a redirect with an event');
is(last_event("event || ' ' || (context -> 'contexts' -> 0 -> 'data' ->> 'uri')"), 'click HTTP://img.CDN.example:8080', 'is a context of it');
for my $to (undef, 'https://evil.example/', 'javascript:alert(1)', '//shop.example/', 'https://shop.example@evil.example/',
	'https://evil.example\@shop.example/', 'https://cdn.example/', "https://shop.example\r\nX: y", 'https://xshop.example/',
	"https://shop.example\t.evil.example/", 'https:/\shop.example/', 'https://shop.example:80@evil.example/')
{
	my $name = defined $to ? $to =~ s/[\r\n\t]/?/gr : 'nowhere';
	is(redirect($to), '400 -', "no redirect to $name");
}
is(redirect('https://shop.example/', aid => 'unknown'), '302 https://shop.example/', 'who clicked gets there even where nobody counts it');

is(sql(q{SELECT bool_and(received = stored + duplicate + failed + withheld), sum(stored) = (SELECT count(*) FROM cdi.events),
	sum(failed) = (SELECT count(*) FROM cdi.failed_events) FROM cdi.pipeline_counts}), 't|t|t', 'accounts add up');
$node->stop;
done_testing();
