# Signed webhooks: the vendors' ways to sign, mappings, replays; and secrets
# that only the key outside of the database can read.
use strict;
use warnings;

use Digest::SHA qw(hmac_sha256_hex hmac_sha256 hmac_sha512_hex);
use MIME::Base64;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use CdiHttp;

my $secrets = PostgreSQL::Test::Utils::tempdir();
my $key_file = "$secrets/key";
open my $out, '>', $key_file or die $!;
binmode $out;
print $out join '', map { chr } 1 .. 32;
close $out;
chmod 0400, $key_file;

$ENV{CDI_GITHUB} = q(It's a Secret to Everybody);
my ($node, $port, $db) = collector_node('webhook', <<CONF);
cdi.secret_directory = '$secrets'
cdi.secret_key_file = '$key_file'
log_statement = 'all'
CONF

sub sql { return $node->safe_psql($db, $_[0]) }
ok(http_wait($port), 'the collector listens');

sub error_of
{
	my ($status, $stdout, $stderr) = $node->psql($db, $_[0], on_error_stop => 1);
	return $stderr;
}

# Secrets
my $stripe_secret = 'whsec_test_4f1c2';
is(sql("COPY cdi.secret_entry FROM STDIN;\nstripe=$stripe_secret\nold=before\n\\.\n"), '', 'secrets are entered by COPY');
is(sql("SELECT string_agg(name, ',' ORDER BY name) FROM cdi.secrets"), 'old,stripe', 'and are there by name');
is(sql("SELECT count(*) FROM cdi.secrets s WHERE s::text LIKE '%whsec%' OR position('whsec'::bytea IN ciphertext) > 0"), '0', 'but not as they are');
is(sql('SELECT count(*) FROM cdi.secret_entry'), '0', 'nothing can be read where they are entered');
like(error_of("COPY cdi.secret_entry FROM STDIN;\nonly_a_value_$stripe_secret\n\\.\n"), qr/a secret is entered as a line NAME=VALUE/, 'a line without a name is refused');
my $log = slurp_file($node->logfile);
unlike($log, qr/whsec_test/, 'no secret is in the log, although it has every statement and error');
is(sql("SELECT length(ciphertext) FROM cdi.secrets WHERE name = 'stripe'"), length($stripe_secret) + 16, 'ciphertext with its tag');

# Stripe
is(sql(q(SELECT cdi_create_source('payments') LIKE 'cdi_%')), 't', 'a source');
like(error_of(q(SELECT cdi_create_webhook('payments', 'stripe', ARRAY['whsec_plain']))), qr/secrets of a webhook are references/, 'a secret itself is refused');
is(sql(q(SELECT cdi_create_webhook('payments', 'stripe', ARRAY['secret:stripe', 'secret:old']))), '/hook/payments', 'a webhook has its path');

sub stripe
{
	my ($body, $secret, $time, @more) = @_;
	$time //= time;
	return ('Stripe-Signature' => "t=$time," . join(',', @more, 'v1=' . hmac_sha256_hex("$time.$body", $secret)));
}
my $paid = '{"id":"evt_1","object":"event","api_version":"2024-06-20","created":1767225600,"livemode":false,"type":"checkout.session.completed",'
  . '"data":{"object":{"id":"cs_1","client_reference_id":"u-77","amount_total":1999,"total":12345678901234567890.10,"customer_details":{"email":"Ada@Example.com"}}}}';
my $answer = http_post($port, '/hook/payments', { stripe($paid, $stripe_secret) }, $paid);
is($answer->{status}, 200, 'a signed payload is taken') or diag($answer->{body});
is(sql(q(SELECT type, event, message_id, user_id, anonymous_id, traits->>'email', properties->>'amount_total', properties->>'total', "timestamp" AT TIME ZONE 'UTC', context #>> '{library,name}' FROM cdi.events)),
	'track|checkout.session.completed|evt_1|u-77|stripe:cs_1|Ada@Example.com|1999|12345678901234567890.10|2026-01-01 00:00:00|stripe', 'and becomes the event that the preset says');
is(sql(q(SELECT count(DISTINCT p) FROM (SELECT cdi_person('user_id', 'u-77') UNION ALL SELECT cdi_person('email', 'ada@example.com')) AS x (p), cdi_resolve())), '1', 'its e-mail address is its person\'s');
is(http_post($port, '/hook/payments', { stripe($paid, $stripe_secret) }, $paid)->{json}{duplicate}, 1, 'the same event again is a duplicate');
(my $second = $paid) =~ s/evt_1/evt_2/;
is(http_post($port, '/hook/payments', { stripe($second, 'before') }, $second)->{status}, 200, 'the secret before it still signs');
(my $third = $paid) =~ s/evt_1/evt_3/;
is(http_post($port, '/hook/payments', { stripe($third, $stripe_secret, undef, 'v1=' . '0' x 64) }, $third)->{status}, 200, 'one of several signatures will do');
for my $case (
	[ 'another secret', { stripe($third, 'wrong') }, $third ],
	[ 'another body', { stripe($third, $stripe_secret) }, $paid ],
	[ 'a time six minutes ago', { stripe($third, $stripe_secret, time - 360) }, $third ],
	[ 'no signature', {}, $third ],
	[ 'an empty signature', { 'Stripe-Signature' => 't=' . time . ',v1=' }, $third ],
	[ 'a signature of another version', { 'Stripe-Signature' => 't=' . time . ',v0=' . hmac_sha256_hex(time . ".$third", $stripe_secret) }, $third ],
	[ 'garbage', { 'Stripe-Signature' => 't=,v1=zz,=,,' }, $third ])
{
	my ($name, $headers, $body) = @$case;
	my $refused = http_post($port, '/hook/payments', $headers, $body);
	is("$refused->{status} $refused->{json}{code}", '401 invalid_signature', "refused: $name");
}
is(http_post($port, '/hook/nobody', { stripe($paid, $stripe_secret) }, $paid)->{status}, 401, 'no such source');
is(http_get($port, '/hook/payments')->{status}, 405, 'nothing to GET');
is(sql(q(SELECT received, stored, duplicate, failed FROM cdi.pipeline_counts WHERE source = 'payments')), '4|3|1|0', 'what was refused is no event');
# A thin event, which names its object instead of having it
my $thin = '{"id":"evt_thin","object":"v2.core.event","type":"v1.billing.meter.error_report_triggered","created":"2026-01-01T12:00:00.000Z",'
  . '"livemode":false,"related_object":{"id":"mtr_1","type":"billing.meter","url":"/v1/billing/meters/mtr_1"}}';
is(http_post($port, '/hook/payments', { stripe($thin, $stripe_secret) }, $thin)->{status}, 200, 'a thin event');
is(sql(q(SELECT properties #>> '{related_object,id}', "timestamp" AT TIME ZONE 'UTC' FROM cdi.events WHERE message_id = 'evt_thin')), 'mtr_1|2026-01-01 12:00:00', 'is kept as it came');

# GitHub: the vector of its documentation, and an event
is(hmac_sha256_hex('Hello, World!', q(It's a Secret to Everybody)), '757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17', 'this test signs as GitHub documents');
sql(q(SELECT cdi_create_source('code') IS NULL, cdi_create_webhook('code', 'github', ARRAY['env:CDI_GITHUB'])));
my $hello = http_post($port, '/hook/code', { 'X-Hub-Signature-256' => 'sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17' }, 'Hello, World!');
is("$hello->{status} $hello->{json}{code}", '400 invalid_json', 'the documented vector is no JSON');
my $opened = '{"action":"opened","number":7,"sender":{"id":42,"login":"ada"}}';
my %github = ('X-GitHub-Event' => 'pull_request', 'X-GitHub-Delivery' => 'd-1', 'X-Hub-Signature-256' => 'sha256=' . hmac_sha256_hex($opened, $ENV{CDI_GITHUB}));
is(http_post($port, '/hook/code', \%github, $opened)->{status}, 200, 'a pull request');
is(sql(q(SELECT event, message_id, anonymous_id, properties->>'number' FROM cdi.events WHERE message_id = 'd-1')), 'pull_request.opened|d-1|github:42|7', 'GitHub\'s event and delivery');

my $form = 'payload=%7B%22action%22%3A%22closed%22%2C%22number%22%3A8%2C%22title%22%3A%22a%2Bb+%26+gr%C3%B6%C3%9Fer%22%7D';
@github{qw(X-GitHub-Delivery X-Hub-Signature-256 Content-Type)} = ('d-2', 'sha256=' . hmac_sha256_hex($form, $ENV{CDI_GITHUB}), 'application/x-www-form-urlencoded');
is(http_post($port, '/hook/code', \%github, $form)->{status}, 200, 'a pull request in a form');
is(sql(q(SELECT event, properties->>'number', properties->>'title' FROM cdi.events WHERE message_id = 'd-2')), "pull_request.closed|8|a+b & gr\xc3\xb6\xc3\x9fer", 'the form is signed, its field is the payload');
$github{'X-Hub-Signature-256'} = 'sha256=' . hmac_sha256_hex('{"action":"closed"}', $ENV{CDI_GITHUB});
is(http_post($port, '/hook/code', \%github, $form)->{status}, 401, 'a signature over the field alone is none');

# Shopify
open $out, '>', "$secrets/shop" or die $!;
print $out "shpss_1\n";
close $out;
sql(q(SELECT cdi_create_source('shop') IS NULL, cdi_create_webhook('shop', 'shopify', ARRAY['file:shop'])));
my $order = '{"id":820982911946154508,"email":"jon@example.com","total_price":"403.00","created_at":"2026-01-02T03:04:05-05:00","customer":{"id":115310627314723954,"email":"john@example.com"}}';
my %shopify = ('X-Shopify-Topic' => 'orders/create', 'X-Shopify-Webhook-Id' => 'w-1', 'X-Shopify-Shop-Domain' => 'x.myshopify.com',
	'X-Shopify-Hmac-Sha256' => encode_base64(hmac_sha256($order, 'shpss_1'), ''));
is(http_post($port, '/hook/shop', \%shopify, $order)->{status}, 200, 'an order');
is(sql(q(SELECT event, message_id, anonymous_id, traits->>'email', properties->>'id', "timestamp" AT TIME ZONE 'UTC', context->>'shop' FROM cdi.events WHERE message_id = 'w-1')),
	'orders/create|w-1|shopify:115310627314723954|john@example.com|820982911946154508|2026-01-02 08:04:05|x.myshopify.com', 'Shopify\'s topic, id and customer');

# Standard Webhooks: the vector of Svix's documentation, and an event
sub standard_signature
{
	my ($id, $time, $body) = @_;
	return encode_base64(hmac_sha256("$id.$time.$body", decode_base64('MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw')), '');
}
is(standard_signature('msg_p5jXN8AQM9LWM0D4loKWxJek', 1614265330, '{"test": 2432232314}'), 'g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=', 'this test signs as Svix documents');
sql("COPY cdi.secret_entry FROM STDIN;\nstandard=whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n\\.\n");
sql(q(SELECT cdi_create_source('standard') IS NULL, cdi_create_webhook('standard', 'standard', ARRAY['secret:standard'])));
my $contact = '{"type":"contact.created","timestamp":"2026-01-02T03:04:05.678Z","data":{"id":"c-1","email":"ada@example.com"}}';

sub standard
{
	my ($id, $time, $signatures, $vendor) = @_;
	$vendor //= 'webhook';
	return http_post($port, '/hook/standard', { "$vendor-id" => $id, "$vendor-timestamp" => $time, "$vendor-signature" => $signatures }, $contact);
}
my $now = time;
is(standard('msg_1', $now, 'v1a,AAAA v1,' . encode_base64('x' x 32, '') . ' v1,' . standard_signature('msg_1', $now, $contact))->{status}, 200, 'one of several signatures');
is(sql(q(SELECT event, message_id, anonymous_id, properties->>'email', "timestamp" AT TIME ZONE 'UTC' FROM cdi.events WHERE message_id = 'msg_1')),
	'contact.created|msg_1|webhook:c-1|ada@example.com|2026-01-02 03:04:05.678', 'its type, id, data and time');
is(standard('msg_1', $now, 'v1,' . standard_signature('msg_1', $now, $contact))->{json}{duplicate}, 1, 'sent again it is a duplicate');
for my $case (
	[ 'another id', 'msg_2', $now, 'v1,' . standard_signature('msg_1', $now, $contact) ],
	[ 'another time', 'msg_1', $now + 1, 'v1,' . standard_signature('msg_1', $now, $contact) ],
	[ 'an old time', 'msg_1', $now - 400, 'v1,' . standard_signature('msg_1', $now - 400, $contact) ],
	[ 'another version', 'msg_1', $now, 'v2,' . standard_signature('msg_1', $now, $contact) ],
	[ 'the secret as text', 'msg_1', $now, 'v1,' . encode_base64(hmac_sha256("msg_1.$now.$contact", 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'), '') ],
	[ 'spaces', 'msg_1', $now, 'v1,  v1,' ])
{
	my ($name, @request) = @$case;
	is(standard(@request)->{status}, 401, "refused: $name");
}
sql(q(SELECT cdi_create_webhook('standard', 'standard', ARRAY['secret:standard'],
  settings => '{"header": "svix-signature", "timestamp_header": "svix-timestamp", "signed": "{header:svix-id}.{timestamp}.{body}"}')));
is(standard('msg_3', $now, 'v1,' . standard_signature('msg_3', $now, $contact), 'svix')->{status}, 200, 'Svix\'s own names');
is(sql(q(SELECT count(*) FROM cdi.events WHERE message_id = 'msg_3')), '1', 'and id');
for my $wrong ('no base64!', 'whsec_')
{
	sql("COPY cdi.secret_entry FROM STDIN;\nstandard=$wrong\n\\.\n");
	is(standard('msg_4', $now, 'v1,' . encode_base64(hmac_sha256("msg_4.$now.$contact", ''), ''), 'svix')->{json}{code}, 'secret_unavailable', "trouble of ours: secret $wrong");
}

# A scheme and a mapping of one's own; what no rule is for is no event.
sql(q(SELECT cdi_create_source('crm') IS NULL, cdi_create_webhook('crm', 'hmac', ARRAY['secret:old'],
  '[{"when": {"$.kind": ["won", "lost"], "header:X-Crm": "1"}, "type": "track", "event": {"concat": ["Deal ", "$.kind"]}, "userId": "$.owner.ids[1]", "timestamp": {"epoch": "milliseconds", "of": "$.at"}, "properties": {"amount": "$.amount", "fixed": [1, "$.missing", "$.kind"]}},
    {"when": {"$.kind": "person"}, "type": "identify", "userId": "$.id", "traits": "$"}]',
  '{"header": "X-Sign", "prefix": "v0=", "algorithm": "sha512", "signed": "v0:{timestamp}:{body}", "timestamp_header": "X-Time", "tolerance": 60}')));

sub crm
{
	my ($body) = @_;
	my $time = time;
	return http_post($port, '/hook/crm', { 'X-Crm' => '1', 'X-Time' => $time, 'X-Sign' => 'v0=' . hmac_sha512_hex("v0:$time:$body", 'before') }, $body);
}
is(crm('[{"kind":"won","owner":{"ids":["a","b"]},"amount":1.50,"at":1767225600123},{"kind":"other"},{"kind":"person","id":"p1","plan":"pro"}]')->{body},
	'{"success":true,"received":2,"stored":2,"duplicate":0,"failed":0,"withheld":0}', 'rules choose what is an event');
is(sql(q(SELECT type, event, user_id, properties, traits->>'plan', "timestamp" AT TIME ZONE 'UTC' FROM cdi.events WHERE source_id = (SELECT source_id FROM cdi.sources WHERE name = 'crm') ORDER BY type DESC LIMIT 1)),
	'track|Deal won|b|{"fixed": [1, "won"], "amount": 1.50}||2026-01-01 00:00:00.123', 'paths, texts, times and objects');
is(crm('{"kind":"lost","owner":{"ids":[]},"at":1}')->{json}{code}, 'no_identifier', 'a mapping that finds nobody makes a failed event');
sql(q(UPDATE cdi.webhooks SET mapping = jsonb_set(mapping, '{0,anonymousId}', '"nobody"') WHERE source_id = (SELECT source_id FROM cdi.sources WHERE name = 'crm')));
is(sql(q(SELECT * FROM cdi_replay(source => 'crm'))), '1|0|0|0', 'which a better mapping and a replay repair');

# Without the key nothing is acknowledged, and nobody is told that it was wrong.
chmod 0644, $key_file;
my $unavailable = http_post($port, '/hook/payments', { stripe($third, $stripe_secret) }, $third);
is("$unavailable->{status} " . ($unavailable->{headers}{'retry-after'} // ''), '503 1', 'a key that others can read is not used: try again');
like(error_of("COPY cdi.secret_entry FROM STDIN;\na=b\n\\.\n"), qr/only the server's user can read/, 'and an error says why');
chmod 0400, $key_file;
is(http_post($port, '/hook/payments', { stripe($third, $stripe_secret) }, $third)->{status}, 200, 'with the key it goes on');
unlike(slurp_file($node->logfile), qr/whsec_test|shpss_1/, 'no secret is in the log');
my $dump = $node->basedir . '/dump.sql';
command_ok([ 'pg_dump', '-h', $node->host, '-p', $node->port, '-f', $dump, $db ], 'pg_dump');
my $dumped = slurp_file($dump);
unlike($dumped, qr/whsec_test|shpss_1/, 'nor in a dump');
like($dumped, qr/COPY cdi\.secrets/, 'which has the ciphertext');
is(sql(q(SELECT bool_and(received = stored + duplicate + failed + withheld) FROM cdi.pipeline_counts)), 't', 'accounts add up');
$node->stop;
done_testing();
