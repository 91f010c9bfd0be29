# The HTTP collector: every endpoint and form of authentication, every kind of
# bad input, and what of it is in the database afterwards.
use strict;
use warnings;

use Compress::Zlib;
use Digest::MD5;
use JSON::PP;
use MIME::Base64;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use FindBin;
use lib $FindBin::RealBin;
use CdiHttp;
use CdiWait;

my ($node, $port, $db) = collector_node('collector', <<CONF);
restart_after_crash = on
cdi.collector_timeout = 1h
cdi.collector_max_body = 256kB
cdi.ingest_max_event = 64kB
CONF
my $key = $node->safe_psql($db, "SELECT cdi_create_source('web')");
ok(http_wait($port), 'the collector answers /health');

my @auth = basic("$key:");
my $sequence = 0;

sub sql
{
	return $node->safe_psql($db, $_[0]);
}

# A track call with a message id of its own.
sub track
{
	my (%members) = @_;
	$sequence++;
	return { type => 'track', event => 'Tested', userId => 'u1',
		messageId => "m-$sequence", %members };
}

sub stored
{
	my ($message_id) = @_;
	return sql("SELECT count(*) FROM cdi.events WHERE message_id = '$message_id'");
}

sub failed
{
	return sql('SELECT count(*) FROM cdi.failed_events');
}

# The pipeline's accounts add up, and agree with the rows.
sub accounts_ok
{
	my ($name) = @_;
	is( sql(q{SELECT bool_and(received = stored + duplicate + failed + withheld),
		sum(stored) = (SELECT count(*) FROM cdi.events),
		sum(failed) = (SELECT count(*) FROM cdi.failed_events) FROM cdi.pipeline_counts}),
		't|t|t', "accounts add up $name");
}

sub is_answer
{
	my ($answer, $status, $code, $name) = @_;
	is( ($answer ? $answer->{status} : 'none') . ' '
		  . ($answer && $answer->{json} ? $answer->{json}{code} || '-' : 'no json'),
		"$status $code", $name);
	if ($answer && $status >= 400)
	{
		ok( $answer->{json} && !$answer->{json}{success} && $answer->{json}{message},
			"$name: JSON with code and message");
	}
}

sub is_stored
{
	my ($answer, $name) = @_;
	is( ($answer ? "$answer->{status} $answer->{body}" : 'none'),
		'200 {"success":true,"received":1,"stored":1,"duplicate":0,"failed":0,"withheld":0}',
		$name);
}

#
# Endpoints
#
my %endpoints = (
	track => 'track', t => 'track', identify => 'identify', i => 'identify',
	page => 'page', p => 'page', screen => 'screen', s => 'screen',
	group => 'group', g => 'group', alias => 'alias', a => 'alias');
for my $path (sort keys %endpoints)
{
	my $call = track(groupId => 'g1', previousId => 'old');
	delete $call->{type};
	is_stored(http_post($port, "/v1/$path", {@auth}, $call), "POST /v1/$path");
	is(sql("SELECT type FROM cdi.events WHERE message_id = '$call->{messageId}'"),
		$endpoints{$path}, "its type comes from the path");
}
for my $path (qw(batch b import))
{
	my @calls = (track(), track(type => 'identify', traits => { plan => 'pro' }));
	my $answer = http_post($port, "/v1/$path", {@auth}, { batch => \@calls });
	is($answer->{status} . ' ' . $answer->{json}{stored}, '200 2', "POST /v1/$path");
	is(join(',', map { stored($_->{messageId}) } @calls), '1,1', 'both are stored');
}
my $twice = track();
is_stored(http_post($port, '/v1/track', {@auth}, $twice), 'an event');
my $again = http_post($port, '/v1/track', {@auth}, $twice);
is("$again->{status} $again->{json}{duplicate}", '200 1', 'the same event again is a duplicate');
is_stored(http_post($port, '/v1/track/', {@auth}, track()), 'a trailing slash does not matter');

#
# Authentication
#
is_stored(http_post($port, '/v1/track', { basic($key) }, track()), 'Basic without colon');
is_stored(http_post($port, '/v1/track', { basic("$key:secret") }, track()), 'Basic with a password');
is_stored(http_post($port, '/v1/track', {}, track(writeKey => $key)), 'writeKey in the body');
is_stored(http_post($port, '/v1/batch', { Authorization => 'Bearer x' },
		{ batch => [ track() ], writeKey => $key }), 'writeKey in the body beside Bearer');
is_stored(http_post($port, "/v1/track?writeKey=$key", {}, track()), '?writeKey=');
my $refused = track();
is_answer(http_post($port, '/v1/track', { basic('nobody:') }, $refused), 401, 'unknown_write_key', 'unknown key');
is_answer(http_post($port, '/v1/track', {}, $refused), 401, 'missing_write_key', 'no key');
is_answer(http_post($port, '/v1/track', { Authorization => 'Basic !!!' }, $refused), 401, 'missing_write_key', 'malformed credentials');
is_answer(http_post($port, '/v1/track', { basic('x' x 4000) }, $refused), 401, 'missing_write_key', 'oversized credentials');
is(stored($refused->{messageId}), 0, 'nothing of a refused key is stored');
my $new_key = sql("SELECT cdi_create_source('new')");
is_stored(http_post($port, '/v1/track', { basic("$new_key:") }, track()), 'a new source works at once');
my $rotated = sql("SELECT cdi_rotate_source('new', '1 hour')");
is_stored(http_post($port, '/v1/track', { basic("$new_key:") }, track()), 'a rotated key works for its grace');
is_stored(http_post($port, '/v1/track', { basic("$rotated:") }, track()), 'and so does the new one');
sql("SELECT cdi_disable_source('new')");
is_answer(http_post($port, '/v1/track', { basic("$rotated:") }, $refused), 401, 'source_disabled', 'disabled source');
sql("SELECT cdi_enable_source('new')");
is_stored(http_post($port, '/v1/track', { basic("$rotated:") }, track()), 'an enabled source');

#
# Encodings and transfer
#
my $encode = JSON::PP->new->utf8;
my $gzip = Compress::Zlib::memGzip($encode->encode(track()));
is_stored(http_post($port, '/v1/track', { @auth, 'Content-Encoding' => 'gzip' }, $gzip), 'gzip');
$gzip = Compress::Zlib::memGzip($encode->encode(track(writeKey => $key)));
is_stored(http_post($port, '/v1/track', { 'Content-Type' => 'text/plain' }, $gzip), 'gzip told by its first bytes alone, key inside');
my $deflate = Compress::Zlib::compress($encode->encode(track()));
is_stored(http_post($port, '/v1/track', { @auth, 'Content-Encoding' => 'deflate' }, $deflate), 'deflate');
my ($raw_deflate) = deflateInit(-WindowBits => -MAX_WBITS);
my $bare = $raw_deflate->deflate($encode->encode(track())) . $raw_deflate->flush;
is_stored(http_post($port, '/v1/track', { @auth, 'Content-Encoding' => 'deflate' }, $bare), 'deflate without zlib header');
is_stored(http_post($port, '/v1/track', { @auth, 'Content-Encoding' => 'gzip' }, $encode->encode(track())), 'gzip announced, inflated by a proxy');
for my $type ('text/plain', 'application/json;charset=UTF-8', 'application/x-www-form-urlencoded', 'nonsense')
{
	is_stored(http_post($port, '/v1/track', { @auth, 'Content-Type' => $type }, track()), "Content-Type $type");
}
{
	my $body = $encode->encode(track());
	my $chunked = join '', map { sprintf "%x\r\n%s\r\n", length $_, $_ } unpack '(a10)*', $body;
	is_stored(http_post($port, '/v1/track', { @auth, 'Transfer-Encoding' => 'chunked' }, "${chunked}0\r\n\r\n"), 'chunked body');

	my $socket = http_connect($port);
	for my $i (1 .. 5)
	{
		http_send($socket, 'POST', '/v1/track', {@auth}, $encode->encode(track()));
		is_stored(http_read($socket), "request $i on one connection");
	}
	my $both = $encode->encode(track());
	my $request = "POST /v1/track HTTP/1.1\r\nHost: x\r\nAuthorization: Basic "
	  . encode_base64("$key:", '') . "\r\nContent-Length: " . length($both) . "\r\n";
	print $socket "$request\r\n$both${request}Connection: close\r\n\r\n$both";
	my $answers = '';
	1 while sysread $socket, $answers, 65536, length $answers;
	is(() = ($answers =~ /HTTP\/1\.1 200/g), 2, 'two pipelined requests, two answers in order');
	like($answers, qr/"stored":1.*"duplicate":1/s, 'stored, then duplicate');

	$socket = http_connect($port);
	my $slow = $encode->encode(track());
	http_send($socket, 'POST', '/v1/track', { @auth, 'Content-Length' => length $slow }, substr $slow, 0, 20);
	sleep 0.5;
	print $socket substr $slow, 20;
	is_stored(http_read($socket), 'body in two parts');
	$socket = http_connect($port);
	http_send($socket, 'POST', '/v1/track', { @auth, Expect => '100-continue', 'Content-Length' => length $both });
	sleep 0.2;
	print $socket $both;
	is(http_read($socket)->{json}{duplicate}, 1, 'Expect: 100-continue');
	is(http_raw($port, "POST /v1/track HTTP/1.0\r\nAuthorization: Basic "
			. encode_base64("$key:", '') . "\r\nContent-Length: " . length($both) . "\r\n\r\n$both")->{status},
		200, 'HTTP/1.0');
}

#
# CORS
#
{
	my $socket = http_connect($port);
	http_send($socket, 'OPTIONS', '/v1/t', { Origin => 'https://shop.example',
			'Access-Control-Request-Method' => 'POST',
			'Access-Control-Request-Headers' => 'authorization, anonymousid' });
	my $answer = http_read($socket);
	is($answer->{status}, 204, 'preflight');
	is($answer->{headers}{'access-control-allow-origin'}, 'https://shop.example', 'echoes the origin');
	is($answer->{headers}{'access-control-allow-headers'}, 'authorization, anonymousid', 'echoes the headers');
	is($answer->{headers}{'access-control-allow-credentials'}, 'true', 'allows credentials');
	is($answer->{headers}{'access-control-allow-private-network'}, undef, 'says nothing of private networks unasked');
	$socket = http_connect($port);
	http_send($socket, 'OPTIONS', '/v1/t', { Origin => 'https://shop.example', 'Access-Control-Request-Method' => 'POST',
			'Access-Control-Request-Private-Network' => 'true' });
	is(http_read($socket)->{headers}{'access-control-allow-private-network'}, 'true', 'allows to ask a collector in the house');
	$answer = http_post($port, '/v1/t', { @auth, Origin => 'https://shop.example' }, track());
	is_stored($answer, 'request from a browser');
	is($answer->{headers}{'access-control-allow-origin'}, 'https://shop.example', 'its answer echoes the origin');
	$answer = http_post($port, '/v1/t', { Origin => 'https://shop.example' }, track());
	is($answer->{headers}{'access-control-allow-origin'}, 'https://shop.example', 'so does a refusal');
}

# Segment's pixel, as its documentation has it: base64 without padding
{
	my $data = encode_base64(qq({"writeKey": "$key", "userId": "025pikachu025", "event": "Email Opened", "properties": {   "subject": "The Electric Daily"}}), '') =~ s/=+$//r;
	my $answer = http_get($port, "/v1/pixel/track?data=$data");
	is("$answer->{status} $answer->{headers}{'content-type'}", '200 image/gif', 'a pixel is answered with an image');
	is(sql(q(SELECT type, user_id, properties, context->>'ip' FROM cdi.events WHERE event = 'Email Opened')), 'track|025pikachu025|{"subject": "The Electric Daily"}|127.0.0.1', 'its call is stored');
	is(http_get($port, '/v1/pixel/track?data=' . encode_base64('{"writeKey": "wrong", "userId": "u"}', ''))->{status}, 401, 'but not with a wrong key');
}
accounts_ok('after good input');

#
# Paths and methods
#
is_answer(http_post($port, '/v1/nothing', {@auth}, track()), 404, 'not_found', 'unknown path');
is_answer(http_post($port, '/v1/' . 'x' x 500, {@auth}, track()), 404, 'not_found', 'long path');
is_answer(http_post($port, '/', {@auth}, track()), 404, 'not_found', 'root');
{
	my $answer = http_get($port, '/v1/track');
	is_answer($answer, 405, 'method_not_allowed', 'GET /v1/track');
	is($answer->{headers}{allow}, 'POST, OPTIONS', 'says what is allowed');
	$answer = http_post($port, '/health', {}, 'x');
	is_answer($answer, 405, 'method_not_allowed', 'POST /health');
	is($answer->{headers}{allow}, 'GET, HEAD, OPTIONS', 'says what is allowed');
}
is_answer(http_raw($port, "POST /v1/track HTTP/1.1\r\nHost: x\r\n\r\n"), 411, 'length_required', 'no length at all');
{
	my $answer = http_raw($port, "nonsense\r\n\r\n");
	ok(!$answer || $answer->{status} == 400, 'no HTTP at all');
	$answer = http_raw($port, "GET /health HTTP/1.1\r\nX: " . 'x' x 100_000 . "\r\n\r\n");
	ok(!$answer || $answer->{status} =~ /^4/, 'headers without end');
}

#
# Bad input.  Each goes alone and in the middle of a batch, where its
# neighbours have to be stored; each is in cdi.failed_events with its bytes.
#
my $deep = '[' x 10_000 . ']' x 10_000;
my $deeper = '[' x 30_000 . ']' x 30_000;
my $long = 'x' x 70_000;
my @bad = (
	[ 'malformed JSON', '{"type":"track","event":"E","userId":"u",}', 400, 'invalid_json' ],
	[ 'no object', '5', 400, qr/invalid_(event|json)/ ],
	[ 'unknown type', '{"type":"nope","userId":"u"}', 400, 'invalid_type' ],
	[ 'type is a number', '{"type":5,"userId":"u"}', 400, 'invalid_type' ],
	[ 'event is an object', '{"type":"track","event":{},"userId":"u"}', 400, 'invalid_type' ],
	[ 'properties is a string', '{"type":"track","event":"E","userId":"u","properties":"p"}', 400, 'invalid_type' ],
	[ 'no identifier', '{"type":"track","event":"E"}', 400, 'no_identifier' ],
	[ 'no time', '{"type":"track","event":"E","userId":"u","timestamp":"yesterday"}', 400, 'invalid_timestamp' ],
	[ 'time out of range', '{"type":"track","event":"E","userId":"u","timestamp":"999999-01-01T00:00:00Z"}', 400, 'invalid_timestamp' ],
	[ 'invalid UTF-8', "{\"type\":\"track\",\"event\":\"\xff\xfe\",\"userId\":\"u\"}", 400, 'invalid_encoding' ],
	[ 'overlong UTF-8', "{\"type\":\"track\",\"event\":\"\xc0\x80\",\"userId\":\"u\"}", 400, 'invalid_encoding' ],
	[ 'NUL byte', "{\"type\":\"track\",\"event\":\"a\0b\",\"userId\":\"u\"}", 400, 'invalid_encoding' ],
	[ 'NUL character', '{"type":"track","event":"a\u0000b","userId":"u"}', 400, 'invalid_character' ],
	[ 'NUL character in a property', '{"type":"track","event":"E","userId":"u","properties":{"a\u0000":1}}', 400, 'invalid_character' ],
	[ 'number without end', '{"type":"track","event":"E","userId":"u","properties":{"n":1e9999999}}', 400, 'number_out_of_range' ],
	[ '10,000 levels deep', "{\"type\":\"track\",\"event\":\"E\",\"userId\":\"u\",\"properties\":{\"a\":$deep}}", 400, qr/invalid_(event|json)/ ],
	[ '30,000 levels deep', "{\"type\":\"track\",\"event\":\"E\",\"userId\":\"u\",\"properties\":{\"a\":$deeper}}", 400, qr/invalid_(event|json)/ ],
	[ 'too large an event', "{\"type\":\"track\",\"event\":\"E\",\"userId\":\"u\",\"properties\":{\"a\":\"$long\"}}", 413, 'event_too_large' ]);

my $is_code = sub {
	my ($got, $expected, $name) = @_;
	ref $expected ? like($got, $expected, $name) : is($got, $expected, $name);
};
for my $case (@bad)
{
	my ($name, $body, $status, $code) = @$case;
	my $before = failed();
	# This path implies no type; the body is one call all the same.
	my $answer = http_post($port, '/v1/batch', {@auth}, $body);
	is($answer->{status}, $status, "$name: status");
	$is_code->($answer->{json}{code}, $code, "$name: code");
	ok($answer->{json}{message} && !$answer->{json}{success}, "$name: message");
	is(failed(), $before + 1, "$name: recorded");
	is(sql('SELECT md5(payload) FROM cdi.failed_events ORDER BY failed_id DESC LIMIT 1'),
		Digest::MD5::md5_hex($body), "$name: with its bytes");

	my ($left, $right) = (track(), track());
	$answer = http_post($port, '/v1/batch', {@auth},
		'{"batch":[' . $encode->encode($left) . ",$body," . $encode->encode($right) . ']}');
	is($answer->{status} . join(',', '', @{ $answer->{json} }{qw(received stored failed)}), '200,3,2,1', "$name in a batch: counts");
	is($answer->{json}{errors}[0]{index}, 1, "$name in a batch: index");
	$is_code->($answer->{json}{errors}[0]{code}, $code, "$name in a batch: code");
	is(stored($left->{messageId}) . stored($right->{messageId}), '11', "$name in a batch: neighbours");
}
accounts_ok('after bad events');

# What SDKs leave of an emoji where they cut a text: half a pair
is_stored(http_post($port, '/v1/batch', {@auth}, '{"type":"track","event":"half \ud83d","userId":"u","properties":{"a":"\uDE00x","b":"\ud83d\ud83d\ude00","c":"\ude00\ud83d","\uD83D":"\\\\ud83d","e":"\ud83d\\n","f":"\ud83D\uDE00"}}'), 'halves of surrogate pairs');
{
	my $expected = 'half R|{"a": "Rx", "b": "RG", "c": "RR", "e": "R\n", "f": "G", "R": "\\\\ud83d"}';
	$expected =~ s/R/\xef\xbf\xbd/g;
	$expected =~ s/G/\xf0\x9f\x98\x80/g;
	is(sql(q(SELECT event, properties FROM cdi.events WHERE event LIKE 'half %')), $expected, 'become U+FFFD; pairs and backslashes stay');
}
is_stored(http_post($port, '/v1/track', {@auth}, "\xef\xbb\xbf" . '{"event":"E","userId":"u"}'), 'a byte order mark before the body');
is_stored(http_post($port, '/v1/track', {@auth}, '{"event":"E","userId":"u","properties":{"a":' . '[' x 900 . ']' x 900 . '}}'), '900 levels deep');
{
	my $call = '{"type":"track","event":"E","userId":"u","messageId":"numbers","properties":{"a":19.99,"b":0.1,"c":12345678901234567890,"d":1e400}}';
	is_stored(http_post($port, '/v1/track', {@auth}, $call), 'numbers');
	is( sql("SELECT properties FROM cdi.events WHERE message_id = 'numbers'"),
		'{"a": 19.99, "b": 0.1, "c": 12345678901234567890, "d": 1' . '0' x 400 . '}',
		'keep every digit');
}

# Bodies
sub refused_body
{
	my ($name, $headers, $body, $status, $code, $stage) = @_;
	my $before = failed();
	my $answer = http_post($port, '/v1/batch', $headers, $body);
	is_answer($answer, $status, $code, $name);
	is(failed(), $before + 1, "$name: recorded");
	is(sql('SELECT stage FROM cdi.failed_events ORDER BY failed_id DESC LIMIT 1'), $stage, "$name: stage");
	return sql('SELECT length(payload) FROM cdi.failed_events ORDER BY failed_id DESC LIMIT 1');
}
my $limit = 256 * 1024;
refused_body('empty body', {@auth}, '', 400, 'invalid_json', 'parse');
refused_body('truncated JSON', {@auth}, '{"batch":[{"type":"track","event":"E"', 400, 'invalid_json', 'parse');
refused_body('truncated JSON with its key', {}, qq({"writeKey":"$key","batch":[{"type"), 400, 'invalid_json', 'parse');
refused_body('truncated gzip', { @auth, 'Content-Encoding' => 'gzip' }, substr($gzip, 0, length($gzip) - 12), 400, 'invalid_compression', 'collect');
refused_body('corrupt gzip', {@auth}, "\x1f\x8bnonsense that is no gzip", 400, 'invalid_compression', 'collect');
is(refused_body('oversized body', {@auth}, 'x' x ($limit + 1), 413, 'body_too_large', 'collect'), $limit, 'kept up to the limit');
is(refused_body('body of several times the limit', {@auth}, 'x' x ($limit * 5), 413, 'body_too_large', 'collect'), $limit, 'kept up to the limit');
is(refused_body('oversized body with its key', {}, qq({"writeKey":"$key","batch":[) . 'x' x $limit, 413, 'body_too_large', 'collect'), $limit, 'kept up to the limit');
my $chunk = sprintf "%x\r\n%s\r\n", 100_000, 'x' x 100_000;
is(refused_body('oversized chunked body', { @auth, 'Transfer-Encoding' => 'chunked' }, $chunk x 5 . "0\r\n\r\n", 413, 'body_too_large', 'collect'), $limit, 'kept up to the limit');
is(refused_body('chunked body without end', { @auth, 'Transfer-Encoding' => 'chunked' }, $chunk x 22, 413, 'body_too_large', 'collect'), $limit, 'kept up to the limit');
is(refused_body('a terabyte announced', { @auth, 'Content-Length' => '1099511627776' }, undef, 413, 'body_too_large', 'collect'), 0, 'nothing came, nothing kept');
is(refused_body('a large body announced and expected', { @auth, Expect => '100-continue', 'Content-Length' => $limit * 2 }, undef, 413, 'body_too_large', 'collect'), 0, 'nothing came, nothing kept');
my $bomb = Compress::Zlib::memGzip("\0" x 100_000_000);
cmp_ok(length $bomb, '<', $limit, 'a bomb is small');
is(refused_body('zip bomb', {@auth}, $bomb, 413, 'body_too_large', 'collect'), length $bomb, 'kept as it came');
$bomb = Compress::Zlib::memGzip(qq({"writeKey":"$key","batch":[) . ' ' x 100_000_000);
is(refused_body('zip bomb with its key inside', {}, $bomb, 413, 'body_too_large', 'collect'), length $bomb, 'kept as it came');
{
	my $before = failed();
	is_answer(http_post($port, '/v1/batch', {}, $bomb = 'x' x ($limit * 2)), 401, 'missing_write_key', 'oversized body of nobody');
	is(failed(), $before, 'is not recorded');
	my $answer = http_post($port, '/v1/batch', {@auth}, '{"batch":[]}');
	is("$answer->{status} $answer->{json}{received}", '200 0', 'empty batch');
	$answer = http_post($port, '/v1/batch', {@auth}, '{"batch":[{"type":"nope"}]}');
	is("$answer->{status} $answer->{json}{failed}", '200 1', 'batch of one bad event');
	my @many = map { +{ type => 'nope' } } 1 .. 150;
	$answer = http_post($port, '/v1/batch', {@auth}, { batch => [ @many, track() ] });
	is("$answer->{json}{failed} $answer->{json}{stored} " . @{ $answer->{json}{errors} }, '150 1 100', 'a hundred errors are listed, all are counted');
}
accounts_ok('after bad bodies');

#
# Clients that are slow or go away
#
collector_set($node, $port, $db, 'cdi.collector_timeout', '2s');
{
	my $call = track();
	my $body = $encode->encode($call);
	my @slow;
	push @slow, http_connect($port) for 1 .. 3;
	http_send($slow[0], 'POST', '/v1/track', { @auth, 'Content-Length' => 1000 }, 'x');
	print { $slow[1] } "POST /v1/track HTTP/1.1\r\nHost: x\r\n";
	http_send($slow[2], 'POST', '/v1/track', { @auth, 'Content-Length' => 1000 }, 'x');

	# One byte at a time is no way around the limit; to the end it would take 200 s.
	my $start = time;
	local $SIG{PIPE} = 'IGNORE';
	my $vector = '';
	vec($vector, fileno($slow[2]), 1) = 1;
	while (time - $start < 100 && !select(my $readable = $vector, undef, undef, 0.2))
	{
		print { $slow[2] } 'x';
	}
	cmp_ok(time - $start, '<', 100, 'a byte at a time is cut off');
	is_answer(http_read($slow[2]), 408, 'timeout', 'a byte at a time');
	is_answer(http_read($slow[0]), 408, 'timeout', 'body that does not come');
	is_answer(http_read($slow[1]), 408, 'timeout', 'headers that do not end');

	my $idle = http_connect($port);
	http_send($idle, 'POST', '/v1/track', {@auth}, $body);
	is_stored(http_read($idle), 'meanwhile others are served');
	is(http_read($idle), undef, 'an idle connection is closed without a word');
	ok($idle->eof, 'closed');

	my $before = sql('SELECT sum(received) FROM cdi.pipeline_counts');
	my $gone = http_connect($port);
	http_send($gone, 'POST', '/v1/track', { @auth, 'Content-Length' => 1000 }, $body);
	close $gone;
	$gone = http_connect($port);
	http_send($gone, 'POST', '/v1/track', { @auth, 'Content-Length' => 1000 }, $body);
	shutdown $gone, 1;
	http_read($gone);
	is_stored(http_post($port, '/v1/track', {@auth}, track()), 'served after truncated bodies');
	is(sql('SELECT sum(received) FROM cdi.pipeline_counts'), $before + 1, 'a truncated body is no event');
}
collector_set($node, $port, $db, 'cdi.collector_timeout', '1h');

#
# A business transaction holds a message id
#
sub parked
{
	my ($name) = @_;
	ok(wait_until(sub { http_metric($port, 'cdi_collector_parked_requests') == 1 }), "$name is parked");
}

{
	my $held = track();
	my $late = 0;
	my $session = $node->background_psql($db);
	$session->query_safe('BEGIN');
	$session->query_safe("SELECT cdi_ingest('" . $encode->encode($held) . "', 'web')");
	my $waiting = http_connect($port);
	my ($left, $right) = (track(), track());
	http_send($waiting, 'POST', '/v1/batch', {@auth}, $encode->encode({ batch => [ $left, $held, $right ], context => { a => 1 } }));
	is_stored(http_post($port, '/v1/track', {@auth}, track()), 'others are acknowledged meanwhile');
	parked('the request');
	is(stored($left->{messageId}) . stored($right->{messageId}), '11', 'so are the neighbours in the same batch');
	$session->query_safe('COMMIT');
	my $answer = http_read($waiting);
	is(join(',', $answer->{status}, @{ $answer->{json} }{qw(received stored duplicate)}), '200,3,2,1', 'after the commit it is a duplicate');
	is(stored($held->{messageId}), 1, 'and stored once');

	$held = track();
	$session->query_safe('BEGIN');
	$session->query_safe("SELECT cdi_ingest('" . $encode->encode($held) . "', 'web')");
	http_send($waiting, 'POST', '/v1/track', {@auth}, $encode->encode($held));
	parked('another request');
	$session->query_safe('ROLLBACK');
	is_stored(http_read($waiting), 'after a rollback it is stored');
	is(stored($held->{messageId}), 1, 'once');

	$held = track();
	$session->query_safe('BEGIN');
	$session->query_safe("SELECT cdi_ingest('" . $encode->encode($held) . "', 'web')");
	http_send($waiting, 'POST', '/v1/track', {@auth}, $encode->encode($held));
	$answer = http_read($waiting);
	is_answer($answer, 503, 'message_id_busy', 'held for too long');
	is($answer->{headers}{'retry-after'}, 1, 'the client shall come again');

	# One that waits is all that may wait, for ten seconds.
	$node->append_conf('postgresql.conf', 'cdi.collector_max_pending = 1');
	$node->reload;
	wait_until(sub {
		if (!http_metric($port, 'cdi_collector_parked_requests'))
		{
			http_read($waiting) if $late++;
			http_send($waiting, 'POST', '/v1/track', {@auth}, $encode->encode($held));
			wait_until(sub { http_metric($port, 'cdi_collector_parked_requests') });
		}
		$answer = http_post($port, '/v1/track', {@auth}, track());
		return $answer->{status} != 200;
	});
	is_answer($answer, 503, 'overloaded', 'more than cdi.collector_max_pending');
	is($answer->{headers}{'retry-after'}, 1, 'the client shall come again');
	$session->query_safe('COMMIT');
	$answer = http_read($waiting);
	if ($answer->{status} == 503)
	{
		http_send($waiting, 'POST', '/v1/track', {@auth}, $encode->encode($held));
		$answer = http_read($waiting);
	}
	is($answer->{json}{duplicate}, 1, 'the one that waited is answered');
	$session->quit;
	$node->append_conf('postgresql.conf', 'cdi.collector_max_pending = 1000');
	$node->reload;
	is_stored(http_post($port, '/v1/track', {@auth}, track()), 'room again');
}
accounts_ok('after parked events');

#
# The database refuses
#
{
	my $call = track();
	my $session = $node->background_psql($db);
	$session->query_safe('BEGIN');
	$session->query_safe('LOCK TABLE cdi.events IN ACCESS EXCLUSIVE MODE');
	my $answer = http_post($port, '/v1/track', {@auth}, $call);
	is_answer($answer, 503, 'database_unavailable', 'events table locked');
	is($answer->{headers}{'retry-after'}, 1, 'the client shall come again');
	$session->query_safe('COMMIT');
	$session->quit;
	is_stored(http_post($port, '/v1/track', {@auth}, $call), 'the same event once the lock is gone');
	is(http_get($port, '/health')->{status}, 200, 'healthy again');

	# An error that is not the data's and one request's doing: its neighbours
	# in the same group are stored.
	sql(q{CREATE FUNCTION refuse_poison() RETURNS trigger LANGUAGE plpgsql AS
		$$BEGIN IF new.event = 'Poison' THEN RAISE EXCEPTION 'poison' USING ERRCODE = 'XX000'; END IF; RETURN new; END$$});
	sql('CREATE TRIGGER refuse_poison BEFORE INSERT ON cdi.events FOR EACH ROW EXECUTE FUNCTION refuse_poison()');
	my @calls = map { track(event => $_ == 5 ? 'Poison' : 'Fine') } 1 .. 12;
	my @sockets = map { http_connect($port) } @calls;
	http_send($sockets[$_], 'POST', '/v1/track', {@auth}, $encode->encode($calls[$_])) for 0 .. $#calls;
	my @status = map { http_read($_)->{status} } @sockets;
	is("@status", '200 200 200 200 503 200 200 200 200 200 200 200', 'one request that breaks the transaction is alone');
	sql('DROP TRIGGER refuse_poison ON cdi.events');
	is_stored(http_post($port, '/v1/track', {@auth}, $calls[4]), 'it is stored once the reason is gone');
}

#
# Reload, restart, crash
#
{
	my $other = PostgreSQL::Test::Cluster::get_free_port();
	$node->append_conf('postgresql.conf', "cdi.collector_port = $other");
	$node->reload;
	ok(http_wait($other), 'another port after a reload');
	ok(!eval { http_connect($port) }, 'nobody listens on the old one');
	$port = $other;

	# A second database with the same port must not take a share of the requests.
	$node->safe_psql('postgres', 'CREATE DATABASE cdi_other');
	$node->safe_psql('cdi_other', 'CREATE EXTENSION cdi; SELECT cdi_init()');
	$node->wait_for_log(qr/cdi collector cannot listen: .*Address already in use/);
	my %statuses;
	$statuses{ http_post($port, '/v1/track', {@auth}, track())->{status} }++ for 1 .. 20;
	is_deeply(\%statuses, { 200 => 20 }, 'the first database keeps its port');
	$node->safe_psql('postgres', 'DROP DATABASE cdi_other');

	my $collector = "FROM pg_stat_activity WHERE backend_type LIKE 'cdi collector%' AND datname = '$db'";
	my $first = sql("SELECT pid $collector");
	sql("SELECT pg_cancel_backend(pid) $collector");
	is_stored(http_post($port, '/v1/track', {@auth}, track()), 'pg_cancel_backend() does no harm');
	is(sql("SELECT pid $collector"), $first, 'the collector is the same');
	sql("SELECT pg_terminate_backend(pid) $collector");
	$node->poll_query_until($db, "SELECT count(*) = 1 $collector AND pid <> $first");
	ok(http_wait($port), 'it comes back after pg_terminate_backend()');

	my $open = http_connect($port);
	http_send($open, 'POST', '/v1/track', { @auth, 'Content-Length' => 1000 }, 'x');
	my $start = time;
	# It has an hour to send the rest.
	$node->restart;
	cmp_ok(time - $start, '<', LIMIT, 'a client that is sending does not hold up a shutdown');
	ok(http_wait($port), 'listens after a restart');
	is_stored(http_post($port, '/v1/track', {@auth}, track()), 'stores after a restart');

	my @acknowledged;
	my $socket = http_connect($port);
	for (1 .. 200)
	{
		my $call = track();
		http_send($socket, 'POST', '/v1/track', {@auth}, $encode->encode($call));
		push @acknowledged, $call->{messageId} if http_read($socket)->{status} == 200;
	}
	ok(crash($node, "SELECT pid $collector"), 'the collector is killed');
	ok(http_wait($port), 'listens after a crash');
	is(sql("SELECT count(DISTINCT message_id) || ',' || count(*) FROM cdi.events WHERE message_id IN ('" . join("','", @acknowledged) . "')"),
		'200,200', 'what was acknowledged is there, once');
}
accounts_ok('in the end');

#
# What it says about itself
#
{
	my $answer = http_get($port, '/metrics');
	is($answer->{status}, 200, '/metrics');
	is($answer->{headers}{'content-type'}, 'application/openmetrics-text; version=1.0.0; charset=utf-8', 'its type');
	like($answer->{body}, qr/\n# EOF\n\z/, 'its end');
	my %types;
	my $wrong = 0;
	for (split /\n/, $answer->{body})
	{
		if (/^# TYPE (\w+) (\w+)$/) { $types{$1} = $2 }
		elsif (/^#/) { next }
		elsif (/^(\w+?)(_total|_bucket|_count|_sum)?(\{(?:\w+="[^"]*",?)+\})? [0-9.e+-]+$/)
		{
			my $type = $types{$1} || $types{ $1 . ($2 || '') } || '';
			$wrong++ unless $type eq 'gauge' || ($type eq 'counter' && $2 eq '_total') || ($type eq 'histogram' && $2 ne '_total');
		}
		else { $wrong++; diag("not OpenMetrics: $_") }
	}
	is($wrong, 0, 'every line is OpenMetrics');
	is(($answer->{body} =~ /^cdi_events_total\{source="web",outcome="stored"\} (\d+)$/m)[0],
		sql("SELECT stored FROM cdi.pipeline_counts WHERE source = 'web'"), 'stored events as the database counts them');
	is(http_get($port, '/health')->{body}, '{"status":"ok"}', '/health');
}

unlike(slurp_file($node->logfile), qr/PANIC|TRAP:/, 'no assertion failed');
$node->stop;
done_testing();
