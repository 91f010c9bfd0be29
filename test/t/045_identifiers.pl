# Identifiers as they come over HTTP: no bad value unites strangers, none stops
# the events beside it, and a collector hears of a change.
use strict;
use warnings;
use utf8;

use Encode;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use CdiHttp;

my ($node, $port, $db) = collector_node('identifiers', "cdi.identity_normaliser_timeout = '2s'\n");
sub sql { return $node->safe_psql($db, $_[0]) }
my $key = sql(q(SELECT cdi_create_source('web')));
ok(http_wait($port), 'the collector listens');

# Two strangers with the same value as user id, e-mail address and phone, and as
# the type and id of an external id.  Returns what was stored and whether they
# became one person.
my $sequence = 0;

sub strangers
{
	my ($json) = @_;
	my $n = ++$sequence;
	my $calls = join(',', map { qq({"type": "identify", "messageId": "s-$n-$_", "anonymousId": "stranger-$n-$_", "userId": $json,
		"traits": {"email": $json, "phone": $json, "householdId": $json, "who": "$_"},
		"context": {"externalIds": [{"id": $json, "type": "ga_client_id"}, {"id": "e-$n-$_", "type": $json}]}}) } 'one', 'two');
	my $answer = http_post($port, '/v1/batch', { basic("$key:"), 'Content-Type' => 'application/json' },
		qq({"batch": [$calls, {"type": "track", "event": "beside", "messageId": "s-$n-beside", "userId": "beside"}]}));
	my $stored = sql(qq(SELECT count(*) FROM cdi.events WHERE message_id LIKE 's-$n-%'));
	sql('SELECT cdi_resolve()');
	my $one = sql(qq(SELECT cdi_person('anonymous_id', 'stranger-$n-one') = cdi_person('anonymous_id', 'stranger-$n-two')));
	return "$answer->{status} $stored " . ($one eq 't' ? 'united' : 'apart');
}

is(strangers('"shared"'), '200 3 united', 'a good value unites, so that these tests can fail');
for my $case (
	[ '""', 'empty' ], [ '" \t\n"', 'blank' ], [ '"\u00a0\u3000\u200b"', 'blank beyond ASCII' ], [ 'null', 'absent' ],
	[ '"null"', 'the word null' ], [ '"NULL"', 'in capitals' ], [ '"undefined"', 'undefined' ], [ '"None"', 'None' ], [ '"NaN"', 'NaN' ],
	[ '"[object Object]"', 'an object that became text' ], [ '"0"', 'a zero' ], [ '0', 'the number zero' ], [ '"0000000000"', 'zeros' ],
	[ '"00000000-0000-0000-0000-000000000000"', 'a zero uuid' ], [ '"-1"', '-1' ], [ '-1', 'the number -1' ],
	[ '"' . 'x' x 513 . '"', '513 bytes' ], [ '"' . 'x' x 40000 . '@x.example"', '40 kB' ])
{
	is(strangers($case->[0]), '200 3 apart', $case->[1]);
}
is(sql(q(SELECT count(*) FROM cdi.persons WHERE traits->>'who' IS NOT NULL)), '37', 'each stranger but the first two is a person of his own');
is(sql('SELECT max(octet_length(value)) <= 64 FROM cdi.identity_refusals'), 't', 'no value is logged whole');

# A megabyte
my $big = 'ü' x (1024 * 200);
is(http_post($port, '/v1/identify', { basic("$key:") },
	encode('UTF-8', qq({"messageId": "big", "userId": "$big", "anonymousId": "of the big one", "traits": {"email": "$big\@x.example"}})))->{status}, 200, 'values of 400 kB are taken');
is(sql(q(SELECT octet_length(user_id), subject = cdi_person('anonymous_id', 'of the big one') FROM cdi.events WHERE message_id = 'big')), '409600|t', 'stored as it came, and identifies nobody');
is(sql(q(SELECT r.type, r.reason, octet_length(r.value) FROM cdi.identity_refusals r JOIN cdi.events e USING (event_id) WHERE e.message_id = 'big' ORDER BY 1)),
	"email|too_long|64\nuser_id|too_long|64", 'set aside, cut between characters');
sql(q(ALTER SYSTEM SET cdi.ingest_max_event = '256kB'; SELECT pg_reload_conf()));
$node->poll_query_until($db, q(SELECT setting = '256' FROM pg_settings WHERE name = 'cdi.ingest_max_event'));
$big = 'x' x (1024 * 1024);
is(http_post($port, '/v1/identify', { basic("$key:") }, qq({"messageId": "bigger", "userId": "$big"}))->{status}, 413, 'a megabyte, where events may not be that large');
is(sql(q(SELECT sqlstate FROM cdi.failed_events)), 'ZC206', 'is a failed event');
sql('DELETE FROM cdi.failed_events');

# Encodings
http_post($port, '/v1/identify', { basic("$key:") }, qq({"messageId": "latin", "userId": "M\xfcller", "traits": {"email": "m\@x.example"}}));
http_post($port, '/v1/identify', { basic("$key:") }, qq({"messageId": "half", "userId": "\\ud83d", "traits": {"email": "half\@x.example"}}));
http_post($port, '/v1/identify', { basic("$key:") }, qq({"messageId": "nul", "userId": "a\\u0000b", "traits": {"email": "m\@x.example"}}));
is(sql(q(SELECT string_agg(message_id || ascii(user_id), ',') FROM cdi.events WHERE message_id IN ('latin', 'half', 'nul'))), 'half65533', 'invalid UTF-8 and U+0000 are stored nowhere, half a surrogate pair as U+FFFD');
is(sql(q(SELECT count(*), count(DISTINCT sqlstate) FROM cdi.failed_events)), '2|2', 'they fail, each for its reason');
is(sql(q(SELECT count(*) FROM cdi.identity_links WHERE 'm@x.example' = ANY ("values"))), '0', 'and link nobody');
http_post($port, '/v1/identify', { basic("$key:") }, encode('UTF-8', qq({"messageId": "utf", "userId": "Müller", "traits": {"email": "MÜLLER\@X.example"}})));
is(sql(q(SELECT "values" FROM cdi.identity_links WHERE event_id = (SELECT event_id FROM cdi.events WHERE message_id = 'utf'))), encode('UTF-8', '{Müller,müller@x.example}'), 'good UTF-8 does');

# A collector hears of changes: a type, a value that is blocked, a normaliser that raises
sub loyalty
{
	my ($value) = @_;
	my $n = ++$sequence;
	http_post($port, '/v1/batch', { basic("$key:") }, { batch => [ map { { type => 'identify', messageId => "l-$n-$_", userId => "l-$n-$_", traits => { card => $_ eq 'it' ? $value : "good $_" } } } 'a', 'it', 'b' ] });
	return sql(qq(SELECT string_agg(coalesce(l.types[2] || '=' || l."values"[2], r.reason || ':' || coalesce(r.detail, ''), '-'), ' ' ORDER BY e.position)
		FROM cdi.events e LEFT JOIN cdi.identity_links l USING (event_id) LEFT JOIN cdi.identity_refusals r USING (event_id) WHERE e.message_id LIKE 'l-$n-%'));
}
is(loyalty('x1'), '- - -', 'no such type');
sql(q(CREATE FUNCTION public.card(v text) RETURNS text LANGUAGE plpgsql STABLE AS 'BEGIN
	IF v = ''raise'' THEN RAISE EXCEPTION ''bad card''; ELSIF v = ''hang'' THEN PERFORM pg_sleep(60); END IF; RETURN upper(v); END';
	SELECT cdi_set_identifier_type('card', '{"paths": ["traits.card"]}')));
is(loyalty('x1'), 'card=good a card=x1 card=good b', 'a new type');
sql(q(SELECT cdi_set_identifier_type('card', '{"normaliser": "function:public.card", "blocked_patterns": ["^SHOP"]}')));
is(loyalty('x1'), 'card=GOOD A card=X1 card=GOOD B', 'its normaliser');
is(loyalty('shop 7'), 'card=GOOD A blocked: card=GOOD B', 'its pattern');
is(loyalty('raise'), 'card=GOOD A normaliser_failed:bad card card=GOOD B', 'a normaliser that raises spoils its own value only');
is(loyalty('hang'), 'card=GOOD A normaliser_failed:It took longer than cdi.identity_normaliser_timeout. card=GOOD B', 'so does one that hangs');
sql(q(DROP FUNCTION public.card(text)));
like(loyalty('x1'), qr/^(normaliser_failed:function public\.card\(text\) does not exist ?){3}$/, 'and one that is gone');

is(sql('SELECT bool_and(received = stored + duplicate + failed + withheld) FROM cdi.pipeline_counts'), 't', 'every event is accounted for');
$node->stop;
done_testing();
