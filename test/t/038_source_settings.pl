# What a source asks of the collector: whose pages may send, whether address and
# user agent are kept, what the browser asked for, and requests as they came.
use strict;
use warnings;

use Compress::Zlib;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use CdiHttp;

my ($node, $port, $db) = collector_node('source_settings', '');
sub sql { return $node->safe_psql($db, $_[0]) }
my $key = sql(q(SELECT cdi_create_source('web')));
ok(http_wait($port), 'the collector listens');
my $page = 'https://www.shop.example';
my $sequence = 0;

sub track
{
	my ($headers, $context) = @_;
	my $id = 'm-' . ++$sequence;
	my $answer = http_post($port, '/v1/track', { basic("$key:"), 'User-Agent' => 'Agent/1', %$headers },
		qq({"event": "x", "userId": "u", "messageId": "$id", "context": ) . ($context // '{}') . '}');
	return ($answer, sql("SELECT context FROM cdi.events WHERE message_id = '$id'"));
}

# Origins
sql(q(SELECT cdi_alter_source('web', '{"allowed_origins": ["https://*.shop.example"]}')));
my ($answer, $context) = track({ Origin => $page });
is("$answer->{status} $answer->{headers}{'access-control-allow-origin'}", "200 $page", 'a page of the list may send and read the answer');
($answer, $context) = track({ Origin => 'https://evil.example' });
is("$answer->{status} $answer->{json}{code} " . ($answer->{headers}{'access-control-allow-origin'} // '-') . " $context",
	'403 origin_not_allowed - ', 'another may not, cannot read why, and nothing is stored');
($answer) = track({});
is($answer->{status}, 200, 'a server has no origin');

# Address and user agent
for my $case ([ 'auto', {}, '|', 'not of a server' ],
	[ 'auto', { Origin => $page }, '127.0.0.1|Agent/1', 'of a browser' ],
	[ 'auto', { 'Sec-Fetch-Mode' => 'no-cors', 'Sec-Fetch-Site' => 'same-origin' }, '127.0.0.1|Agent/1', 'of a browser on the same origin' ],
	[ 'auto', { 'Sec-Fetch-Mode' => 'cors' }, '|', 'not of a server that uses fetch() of Node.js' ],
	[ 'always', {}, '127.0.0.1|Agent/1', 'of whoever sends' ],
	[ 'never', { Origin => $page }, '|', 'of nobody' ])
{
	my ($setting, $headers, $expected, $name) = @$case;
	sql("SELECT cdi_alter_source('web', '{\"client_address\": \"$setting\"}')");
	track($headers);
	is(sql("SELECT concat_ws('|', coalesce(context->>'ip', ''), coalesce(context->>'userAgent', '')) FROM cdi.events WHERE message_id = 'm-$sequence'"),
		$expected, "$setting: address and user agent $name");
}
sql(q(SELECT cdi_alter_source('web', '{"client_address": "always"}')));
($answer, $context) = track({}, '{"ip": "203.0.113.7"}');
like($context, qr/"ip": "203\.0\.113\.7"/, 'an address that the call has stays');
sql(q(SELECT cdi_alter_source('web', '{"client_address": null}')));

# What the browser asked for
is((track({ 'Sec-GPC' => 1, DNT => 1 }, '{"globalPrivacyControl": false}'))[1], '{"doNotTrack": true, "globalPrivacyControl": true}', 'the signals of the headers are recorded, and count before the call');
is((track({ 'Sec-GPC' => 0, DNT => 0 }))[1], '{}', 'a header that says no adds nothing');

# Requests as they came
is(sql('SELECT count(*) FROM cdi.original_requests'), '0', 'no request is kept unasked');
sql(q(SELECT cdi_alter_source('web', '{"keep_original": true}')));
my $body = Compress::Zlib::memGzip('{"batch": [{"type": "track", "event": "kept", "userId": "u"}, {"type": "track"}]}');
http_post($port, '/v1/batch?a=b', { basic("$key:"), 'Content-Encoding' => 'gzip', 'Content-Type' => 'text/plain' }, $body);
is(sql(q(SELECT method, path, query, content_type, content_encoding, encode(body, 'hex') FROM cdi.original_requests)),
	'POST|/v1/batch|a=b|text/plain|gzip|' . unpack('H*', $body), 'a request is kept byte for byte');
is(sql(q(SELECT r.event_ids = array_agg(e.event_id) FROM cdi.original_requests r, cdi.events e WHERE e.event = 'kept' GROUP BY r.event_ids)), 't', 'with the event that it became');
$node->stop;
done_testing();
