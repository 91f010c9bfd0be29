# What a request can do to those beside it: bytes that no table may hold,
# memory, time, other people's limits and transactions.
use strict;
use warnings;

use Digest::MD5;
use Digest::SHA qw(hmac_sha256_hex);
use MIME::Base64;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use FindBin;
use lib $FindBin::RealBin;
use CdiHttp;
use CdiWait;

my $secrets = PostgreSQL::Test::Utils::tempdir();
# Memory that was freed is overwritten: who still looks at it falls over.
$ENV{MALLOC_PERTURB_} = 165;
$ENV{CDI_HOOK} = 'hook secret';
my ($node, $port, $db) = collector_node('request_path', <<CONF);
cdi.secret_directory = '$secrets'
CONF

sub sql { return $node->safe_psql($db, $_[0]) }

my $key = sql(q(SELECT cdi_create_source('web')));
ok(http_wait($port), 'the collector listens');

sub counts { return sql("SELECT received, stored, duplicate, failed FROM cdi.pipeline_counts WHERE source = '$_[0]'") }

# Bytes that are no text
for my $bytes ("ab\xff\xfe", "a\0b")
{
	my $answer = http_post($port, '/v1/track', { basic($key), AnonymousId => encode_base64($bytes, '') }, '{"event": "x"}');
	is("$answer->{status} $answer->{json}{code}", '400 invalid_encoding', 'an anonymous id that is no text is refused');
}
is(http_post($port, '/v1/track', { basic($key), AnonymousId => encode_base64("\xc3\xa4", '') }, '{"event": "x", "messageId": "umlaut"}')->{status}, 200, 'one with an umlaut is not');
is(sql(q(SELECT encode(convert_to(anonymous_id, 'UTF8'), 'hex') FROM cdi.events)), 'c3a4', 'and is the only one that was stored');
is(counts('web'), '3|1|0|2', 'the others are failed events');

# What a request says of its events outlives its transaction where they are parked
sql(q(SELECT cdi_create_source('hook') IS NULL, cdi_create_webhook('hook', 'hmac', ARRAY['env:CDI_HOOK'], mapping => '{"type": "track", "event": "$.event", "messageId": "$.id", "anonymousId": "header:X-Sender"}')));
my $agent = 'Mozilla ' x 1200 . '5.0';		# larger than what a context keeps for its next life
my $hooked = '{"event": "hooked", "id": "held"}';
my %signed = ('X-Signature-256' => 'sha256=' . hmac_sha256_hex($hooked, $ENV{CDI_HOOK}), 'X-Sender' => 's' x 9000);
my $holder = $node->background_psql($db, on_error_stop => 1);
$holder->query_safe(q(BEGIN; SELECT cdi_track('u', 'x', message_id => 'held', source => s) FROM unnest(ARRAY['web', 'hook']) s));
my $browser = http_connect($port);
http_send($browser, 'POST', '/v1/track', { basic($key), Origin => 'https://shop.example', 'User-Agent' => $agent, 'Sec-GPC' => 1 }, '{"event": "x", "userId": "u", "messageId": "held"}');
my $sender = http_connect($port);
http_send($sender, 'POST', '/hook/hook', \%signed, $hooked);
ok(wait_until(sub { http_metric($port, 'cdi_collector_parked_requests') == 2 }), 'events whose ids are held wait');
$holder->query_safe('ROLLBACK');
$holder->quit;
is(http_read($browser)->{json}{stored}, 1, 'the event is stored when the id is free');
is(http_read($sender)->{json}{stored}, 1, 'so is that of the webhook');
is(sql(q(SELECT length(context->>'userAgent'), md5(context->>'userAgent'), context->'globalPrivacyControl' FROM cdi.events WHERE message_id = 'held' AND user_id = 'u')),
	length($agent) . '|' . Digest::MD5::md5_hex($agent) . '|true', 'with what the browser said');
is(sql(q(SELECT anonymous_id = repeat('s', 9000) FROM cdi.events WHERE event = 'hooked')), 't', 'and by the mapping');

# Without a signature a request is nobody's: not recorded, not counted
sql(q(SELECT cdi_alter_source('hook', '{"rate_limit": 0.01, "rate_burst": 2}')));
for my $body ('no JSON', '[', '{"event": "x"}', 'x' x 5_000_000)
{
	my $answer = http_post($port, '/hook/hook', {}, $body);
	is($answer->{status}, length $body > 4_194_304 ? 413 : 401, 'refused without a signature: ' . substr($body, 0, 10));
}
is(counts('hook'), '1|1|0|0', 'nothing of it is recorded');
my $second = '{"event": "hooked", "id": "second"}';
is(http_post($port, '/hook/hook', { 'X-Signature-256' => 'sha256=' . hmac_sha256_hex($second, $ENV{CDI_HOOK}), 'X-Sender' => 's' }, $second)->{status}, 200, 'nor counts it against the source\'s rate');
my $broken = 'signed, but no JSON';
is(http_post($port, '/hook/hook', { 'X-Signature-256' => 'sha256=' . hmac_sha256_hex($broken, $ENV{CDI_HOOK}) }, $broken)->{status}, 400, 'what is signed and cannot be read is a failed event');
is(counts('hook'), '3|2|0|1', 'of its source');

# Any number of signatures costs what one costs
sql(q(SELECT cdi_create_source('pay') IS NULL, cdi_create_webhook('pay', 'stripe', ARRAY['env:CDI_HOOK'])));
my $large = '{"id": "' . 'x' x 4_000_000 . '"}';
my ($collector) = split /\n/, sql(q(SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'cdi collector%'));
# Seconds that the collector has had a processor, whatever else this machine does
sub seconds
{
	my ($signatures) = @_;
	my $used = sub {
		my $nanoseconds = 0;
		$nanoseconds += (split ' ', slurp_file($_))[0] for glob "/proc/$collector/task/*/schedstat";
		return $nanoseconds / 1e9;
	};
	my $start = $used->();
	is(http_post($port, '/hook/pay', { 'Stripe-Signature' => 't=' . int(time) . ',' . join(',', ('v1=' . '0' x 64) x $signatures) }, $large)->{status}, 401, "$signatures wrong signatures");
	return $used->() - $start;
}
my $one = seconds(1);
my $many = seconds(200);
cmp_ok($many, '<', 10 * $one, 'are checked against one computation') or diag("$one s for one");

# A secret that cannot be read fails its own requests only
sql(q(SELECT cdi_create_source('lost') IS NULL, cdi_create_webhook('lost', 'hmac', ARRAY['file:none'])));
my $busy = http_connect($port);
my @connections = map { http_connect($port) } 1 .. 200;
http_send($busy, 'POST', '/v1/batch', { basic($key) }, '{"batch": [' . join(',', ('{"type": "track", "event": "x", "userId": "u"}') x 20000) . ']}');
sleep 0.1;	# the others are one group
for my $i (0 .. $#connections)
{
	if ($i % 4 == 0) { http_send($connections[$i], 'POST', '/hook/lost', { 'X-Signature-256' => 'sha256=00' }, '{}') }
	else { http_send($connections[$i], 'POST', '/v1/track', { basic($key) }, '{"event": "x", "userId": "u"}') }
}
my %answers;
for my $i (0 .. $#connections)
{
	my $answer = http_read($connections[$i]);
	my $retry = $answer->{headers}{'retry-after'} // '-';
	$answers{($i % 4 == 0 ? 'hook' : 'track') . " $answer->{status} $retry"}++;
}
is_deeply(\%answers, { 'hook 503 1' => 50, 'track 200 -' => 150 }, 'those of the source come again, their neighbours are stored');
is(http_read($busy)->{status}, 200, 'and the large one');
like(slurp_file($node->logfile), qr/secret "file:none" is not available/, 'the log says which');

# A small body that becomes much memory
sub memory
{
	return slurp_file("/proc/$collector/status") =~ /^VmHWM:\s+(\d+) kB/m ? $1 / 1024 : 0;
}
my $before = memory();
my $context = '{"a": "' . 'x' x 100_000 . '"}';
my $calls = join ',', ('{"type": "track", "event": "x", "userId": "u"}') x 1000;
for my $case (
	[ '/v1/batch', "{\"context\": $context, \"batch\": [$calls]}", 413, { basic($key), 'Sec-GPC' => 1 } ],
	[ '/api/s/batch', "{\"context\": $context, \"batch\": [$calls]}", 413, { basic($key) } ],
	[ '/import', "{\n" . "x\n" x 500_000, 400, { basic($key) } ])
{
	my ($path, $body, $status, $headers) = @$case;
	my $answer = http_post($port, $path, $headers, $body);
	is($answer->{status}, $status, "$path refuses a body that would become more than it is") or diag($answer->{body});
}
is(http_post($port, '/com.snowplowanalytics.snowplow/tp2', { basic($key) }, '{"data": "' . 'x' x 5_000_000 . '"}')->{status}, 422, 'a Snowplow tracker is told not to try again');
is(http_post($port, "/g/collect?v=2&cid=1&tid=$key", {}, "en=x&ep.a=1\n" x 20_000)->{status}, 413, 'lines of twelve bytes are no twenty thousand events');
cmp_ok(memory() - $before, '<', 100, 'and needs no memory to do so');
is(http_post($port, '/v1/batch', { basic($key) }, "{\"context\": $context, \"batch\": [" . join(',', ('{"type": "track", "event": "x", "userId": "u"}') x 100) . ']}')->{json}{stored}, 100, 'a hundred calls may share as large a context');

# A secret that COPY itself cannot read
for my $line ("name\thidden1", "name=\\xffhidden2")
{
	my ($status) = $node->psql($db, "COPY cdi.secret_entry FROM STDIN;\n$line\n\\.\n", on_error_stop => 1);
	isnt($status, 0, 'is refused');
}
my $log = slurp_file($node->logfile);
like($log, qr/extra data after last expected column/, 'the log says why');
unlike($log, qr/hidden[12]/, 'and not what');

# What an SDK fetches is no event
my $limited = sql(q(SELECT cdi_create_source('limited')));
sql(q(SELECT cdi_alter_source('limited', '{"rate_limit": 0.01, "rate_burst": 1}')));
is(join(' ', map { http_get($port, "/v1/projects/$limited/settings")->{status} } 1 .. 3), '200 200 200', 'pages take nothing of the rate');
is(http_post($port, '/v1/track', { basic($limited) }, '{"event": "x", "userId": "u"}')->{status}, 200, 'the first event comes in');
is(http_post($port, '/v1/track', { basic($limited) }, '{"event": "x", "userId": "u"}')->{status}, 429, 'the second has to wait');
is(http_get($port, "/v1/projects/$limited/settings")->{status}, 200, 'a page does not');

is(sql('SELECT count(*) FROM cdi.pipeline_counts WHERE received <> stored + duplicate + failed + withheld'), '0', 'all is accounted for');
is(sql("SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'cdi collector%'"), $collector, 'by one collector, which never ended');

$node->stop;
done_testing();
