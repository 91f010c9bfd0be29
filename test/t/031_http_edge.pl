# The edge of HTTP: requests that two readers could understand differently,
# bodies that are not what they say, clients that stop half way.  Whatever
# comes, the collector says so or hangs up, and serves the next one.
use strict;
use warnings;

use Compress::Zlib;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use FindBin;
use lib $FindBin::RealBin;
use CdiHttp;
use CdiWait;

my ($node, $port, $db) = collector_node('edge', <<CONF);
cdi.collector_timeout = 1h
cdi.collector_max_body = 256kB
CONF
my $key = $node->safe_psql($db, "SELECT cdi_create_source('web')");
ok(http_wait($port), 'the collector answers /health');

my %auth = basic("$key:");
my $sequence = 0;

sub sql
{
	return $node->safe_psql($db, $_[0]);
}

sub call
{
	$sequence++;
	return qq({"type":"track","event":"E","userId":"u","messageId":"m-$sequence"});
}

# Bytes over one connection, and everything that comes back.
sub exchange
{
	my ($bytes, %options) = @_;
	my $socket = http_connect($port);
	local $SIG{PIPE} = 'IGNORE';
	print $socket $bytes;
	shutdown $socket, 1 if $options{half};
	my $answers = '';
	my $end = time + LIMIT;
	while (time < $end)
	{
		my $vector = '';
		vec($vector, fileno($socket), 1) = 1;
		last if !select($vector, undef, undef, $end - time);
		last if !sysread $socket, $answers, 65536, length $answers;
		my @answers = $answers =~ /HTTP\/1\.1 \d/g;
		last if $options{until} && @answers >= $options{until};
	}
	return $answers;
}

sub statuses
{
	my ($answers) = @_;
	return join ' ', $answers =~ /HTTP\/1\.1 (\d+) /g;
}

my $start = "POST /v1/track HTTP/1.1\r\nAuthorization: $auth{Authorization}\r\n";
my $host = "Host: localhost\r\n";

sub chunked
{
	return join('', map { sprintf "%x\r\n%s\r\n", length $_, $_ } @_) . "0\r\n\r\n";
}

#
# One way to read a request, or none.  A second request follows each: behind a
# proxy it would be another client's, and it must not be answered.
#
sub refused
{
	my ($name, $status, $head, $body) = @_;
	my $before = sql('SELECT coalesce(sum(received), 0) FROM cdi.pipeline_counts');
	my $answers = exchange("$head\r\n" . (defined $body ? $body : '')
		  . "GET /health HTTP/1.1\r\n$host\r\n");
	like(statuses($answers), $status, "$name: refused, and nothing read behind it");
	is(sql('SELECT coalesce(sum(received), 0) FROM cdi.pipeline_counts'), $before, "$name: no event");
}

{
	my $body = call();
	my $length = length $body;
	my $right = "Content-Length: $length\r\n";
	my $hex = sprintf '0x%x', $length;
	my $codes = qr/^(400|501)$/;
	# What the library answers itself: 0.9.75 sends the head twice, and later
	# releases close without an answer at a NUL byte in the first line.
	my $library = qr/^400( 400)?$/;
	my $silent = qr/^(400)?$/;
	refused('two lengths', qr/^400$/, "$start${host}${right}Content-Length: 5\r\n", $body);
	refused('the same length twice', qr/^400$/, "$start$host$right$right", $body);
	refused('a list of lengths', $library, "$start${host}Content-Length: $length, $length\r\n", $body);
	refused('length and chunks', qr/^400$/, "$start$host${right}Transfer-Encoding: chunked\r\n", chunked($body));
	refused('chunks and length', qr/^400$/, "$start${host}Transfer-Encoding: chunked\r\n$right", chunked($body));
	refused("length $_->[0]", $_->[1] || $library, "$start${host}Content-Length:$_->[0]\r\n", $body)
	  for ([" +$length"], [" -$length"], [" $hex"], [" $length 5"], [" ${length}x"], [''], [" $length."], [" \x0b$length"],
		[ ' 18446744073709551616', qr/^413( 413)?$/ ], [ ' 99999999999999999999999999', qr/^413( 413)?$/ ]);
	refused("length with a NUL", qr/^400$/, "$start${host}Content-Length: $length\0\r\n", $body);
	refused("length with a NUL inside", qr/^400$/, "$start${host}Content-Length: $length\x000\r\n", $body);
	refused("transfer coding $_", $codes, "$start${host}Transfer-Encoding: $_\r\n", chunked($body))
	  for ('identity', 'gzip', 'gzip, chunked', 'chunked, chunked', 'chunked, identity', 'xchunked', "\x0bchunked", '"chunked"', 'chunked;a=b', "chunked\0");
	refused('two transfer codings', $codes, "$start${host}Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n", chunked($body));
	refused('chunks in HTTP/1.0', qr/^400$/, "POST /v1/track HTTP/1.0\r\n${host}Transfer-Encoding: chunked\r\n", chunked($body));
	refused('space before the colon', qr/^400$/, "$start${host}Content-Length : $length\r\n", $body);
	refused('space before the colon of the coding', qr/^400$/, "$start$host${right}Transfer-Encoding : chunked\r\n", $body);
	refused('a folded length', qr/^400$/, "$start${host}Content-Length:\r\n $length\r\n", $body);
	refused('a length in a folded line', qr/^400$/, "$start${host}X: a\r\n Content-Length: 5\r\n$right", $body);
	refused('a folded first line', qr/^400$/, "POST /v1/track HTTP/1.1\r\n Content-Length: 5\r\n$host$right", $body);
	refused('a line that ends in LF', qr/^400$/, "$start${host}X: a\n$right", $body);
	refused('a length behind a bare CR', qr/^400$/, "$start${host}X: a\r$right", $body);
	refused('a NUL in a value', qr/^400$/, "$start${host}X: a\0b\r\n$right", $body);
	refused('a NUL in a name', qr/^400$/, "$start${host}X\0Y: a\r\n$right", $body);
	refused('a control character in a name', qr/^400$/, "$start${host}X\x01: a\r\n$right", $body);
	refused('no colon', qr/^400$/, "$start${host}X\r\n$right", $body);
	refused('no name', qr/^400$/, "$start$host: x\r\n$right", $body);
	refused("the host $_", qr/^400$/, "${start}Host: $_\r\n$right", $body) for 'a/b', 'a@b', 'a b', 'a?b';
	refused('two hosts', qr/^400$/, "$start$host${host}$right", $body);
	refused('no host', qr/^400$/, "$start$right", $body);
	refused('LF everywhere', qr/^400$/, "POST /v1/track HTTP/1.1\nHost: x\nContent-Length: $length\n", $body);
	refused('a space in the target', qr/^400$/, "POST /v1/tr ack HTTP/1.1\r\n$host$right", $body);
	refused('two spaces', qr/^400$/, "POST  /v1/track HTTP/1.1\r\n$host$right", $body);
	refused('a NUL in the target', $silent, "POST /v1/track\0 HTTP/1.1\r\n$host$right", $body);
	refused('an encoded NUL', qr/^400$/, "POST /v1/track%00x HTTP/1.1\r\n$host$right", $body);
	refused('a NUL in the method', $silent, "PO\0ST /v1/track HTTP/1.1\r\n$host$right", $body);
	refused('HTTP/0.9', qr/^400$/, 'GET /health');
	refused('HTTP/2.0', qr/^505$/, "GET /health HTTP/2.0\r\n$host");
	refused('HTTP/1.2', qr/^505$/, "GET /health HTTP/1.2\r\n$host");
	refused('lower case http', qr/^400$/, "GET /health http/1.1\r\n$host");

	my $answer = http_raw($port, "$start$host$right$right\r\n$body");
	is($answer->{status} . ' ' . $answer->{json}{code} . ' ' . $answer->{headers}{connection},
		'400 malformed_request close', 'a refusal says what is wrong');
	ok($answer->{json}{message}, 'in words');
	$answer = http_raw($port, "$start${host}Transfer-Encoding: gzip\r\n\r\n");
	# Later releases answer 400 by themselves, in HTML.
	is($answer->{status} == 501 ? $answer->{json}{code} : "by the library: $answer->{status}",
		$answer->{status} == 501 ? 'unsupported_transfer_coding' : 'by the library: 400', 'and what is not understood');

	# What is unusual and clear.
	is(statuses(exchange("$start${host}Content-Length: 0$length\r\n\r\n$body", until => 1)), '200', 'leading zero');
	$body = call();
	is(statuses(exchange("POST http://localhost/v1/track HTTP/1.1\r\nAuthorization: $auth{Authorization}\r\n$host${right}\r\n$body", until => 1)), '200', 'absolute target');
	is(statuses(exchange("\r\nGET /health HTTP/1.1\r\n$host\r\n", until => 1)), '200', 'an empty line before a request');
	is(statuses(exchange("GET /health HTTP/1.0\r\n\r\n")), '200', 'HTTP/1.0 without host');
	is(statuses(exchange("GET /health HTTP/1.1\r\nHost: [::1]:8787 \r\n\r\n", until => 1)), '200', 'a host that is an address, with a space behind it');
	is(statuses(exchange("GET /health HTTP/1.1\r\n${host}Expect: 200-ok\r\n\r\n", until => 1)), '200', 'an expectation that nobody knows');
}

#
# Chunks
#
{
	for (
		[ 'a size in words', "zz\r\n%s\r\n0\r\n\r\n" ],
		[ 'a size with 0x', "0x%x\r\n%s\r\n0\r\n\r\n" ],
		[ 'a negative size', "-%x\r\n%s\r\n0\r\n\r\n" ],
		[ 'a size with a sign', "+%x\r\n%s\r\n0\r\n\r\n" ],
		[ 'a space before the size', " %x\r\n%s\r\n0\r\n\r\n" ],
		[ 'a size of 68 bits', "1000000000000%04x\r\n%s\r\n0\r\n\r\n" ],
		[ 'no size', "\r\n%2\$s\r\n0\r\n\r\n" ],
		[ 'no line end after a chunk', "%x\r\n%s0\r\n\r\n" ],
		[ 'more than a chunk', "%x\r\n%sxx\r\n0\r\n\r\n" ],
		[ 'a trailer without colon', "%x\r\n%s\r\n0\r\nX\r\n\r\n" ])
	{
		my ($name, $format) = @$_;
		my $body = call();
		no warnings 'redundant', 'printf';
		my $chunks = $format =~ /%x|%04x/ ? sprintf($format, length $body, $body) : $format =~ s/%(?:2\$)?s/$body/r;
		refused("chunks with $name", qr/^4(00|13)$/, "$start${host}Transfer-Encoding: chunked\r\n", $chunks);
	}
	for (
		[ 'a trailer', "%x\r\n%s\r\n0\r\nX: y\r\n\r\n" ],
		[ 'a length as trailer', "%x\r\n%s\r\n0\r\nContent-Length: 5\r\n\r\n" ],
		[ 'leading zeros', "0000%x\r\n%s\r\n000\r\n\r\n" ])
	{
		my ($name, $format) = @$_;
		my $body = call();
		is(statuses(exchange("$start${host}Transfer-Encoding: chunked\r\n\r\n" . sprintf($format, length $body, $body)
					. "GET /health HTTP/1.1\r\n$host\r\n")),
			'200', "chunks with $name: taken, and the connection ends there");
		is(sql("SELECT count(*) FROM cdi.events WHERE message_id = 'm-$sequence'"), 1, "chunks with $name: stored");
	}
	# libmicrohttpd 1.0 refuses extensions, which it could ignore.
	{
		my $body = call();
		my $status = statuses(exchange("$start${host}Transfer-Encoding: chunked\r\n\r\n"
			  . sprintf("%x;a=b\r\n%s\r\n0\r\n\r\n", length $body, $body) . "GET /health HTTP/1.1\r\n$host\r\n"));
		like($status, qr/^(200|400)$/, 'chunks with an extension: one answer, and the connection ends there');
		is(sql("SELECT count(*) FROM cdi.events WHERE message_id = 'm-$sequence'"), $status eq '200' ? 1 : 0,
			'chunks with an extension: stored if so answered');
	}
	is(statuses(exchange("$start${host}Transfer-Encoding: chunked\r\n\r\n" . chunked(split //, call()))), '200', 'a byte per chunk');
}

#
# Half a connection
#
{
	my @idle = map { http_connect($port) } 1 .. 3;
	my ($one, $two) = (call(), call());
	my $length = length $one;
	my $request = "$start${host}Content-Length: $length\r\n\r\n$one";
	for my $round (1 .. 5)
	{
		is(statuses(exchange($request, half => 1)), '200', 'a client that has said all it will say gets its answer');
	}
	is(statuses(exchange($request . $request, half => 1)), '200 200', 'so does one that sent two requests');
	is(statuses(exchange("$start${host}Transfer-Encoding: chunked\r\n\r\n" . chunked($two), half => 1)), '200', 'and one that sent chunks');
	is(statuses(exchange("GET /health HTTP/1.1\r\n$host\r\n", half => 1)), '200', 'and GET');

	# While a transaction holds its message id
	my $held = call();
	my $session = $node->background_psql($db);
	$session->query_safe('BEGIN');
	$session->query_safe("SELECT cdi_ingest('$held', 'web')");
	my $socket = http_connect($port);
	http_send($socket, 'POST', '/v1/track', {%auth}, $held);
	shutdown $socket, 1;
	ok(wait_until(sub { http_metric($port, 'cdi_collector_parked_requests') == 1 }), 'one that has to wait is parked');
	$session->query_safe('COMMIT');
	$session->quit;
	my $answer = http_read($socket);
	is($answer && $answer->{json}{duplicate}, 1, 'and gets its answer, too');
}

#
# Slow clients, many at a time
#
sub slow_clients
{
	my @slow;
	for my $i (1 .. 100)
	{
		my $socket = http_connect($port);
		print $socket $i % 2 ? "POST /v1/track HTTP/1.1\r\nHost: x\r\n" : "$start${host}Content-Length: 1000\r\n\r\n{";
		push @slow, $socket;
	}
	return @slow;
}

{
	# They have an hour.
	my @slow = slow_clients();
	is(http_post($port, '/v1/track', {%auth}, call())->{json}{stored}, 1, 'a hundred slow clients hold up nobody');
}

# Who sends no more is cut off.
collector_set($node, $port, $db, 'cdi.collector_timeout', '2s');
{
	my $forever = "$start${host}Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nx";
	is(statuses(exchange($forever)), '408', 'a chunk that never ends');
	is(statuses(exchange("$start${host}Transfer-Encoding: chunked\r\n\r\n5\r\n{\"typ")), '408', 'chunks that stop');
	is(statuses(exchange("$start${host}Content-Length: 1000\r\n\r\n" . call(), half => 1)) || '408', '408', 'half a request is none');
	my %status;
	for my $socket (slow_clients())
	{
		my $late = http_read($socket);
		$status{ $late ? $late->{status} : 'none' }++;
	}
	is_deeply(\%status, { 408 => 100 }, 'each slow client is told that it took too long');
}
collector_set($node, $port, $db, 'cdi.collector_timeout', '1h');

#
# Bodies that are too large
#
{
	my $hundred = 100 * 1024 * 1024;
	my $answer = http_raw($port, "$start${host}Content-Length: $hundred\r\n\r\n" . 'x' x 1_000_000);
	is($answer && $answer->{status}, 413, 'a hundred megabytes announced');
	my $socket = http_connect($port);
	local $SIG{PIPE} = 'IGNORE';
	print $socket "$start${host}Transfer-Encoding: chunked\r\n\r\n";
	my $chunk = sprintf "%x\r\n%s\r\n", 1 << 20, 'x' x (1 << 20);
	my $sent = 0;
	$sent++ while $sent < 100 && print $socket $chunk;
	cmp_ok($sent, '<', 100, 'a hundred megabytes in chunks are not read to the end');
	ok(wait_until(sub { http_metric($port, 'cdi_collector_body_memory_bytes') == 0 }), 'and no memory is left with them');
	my $all = call();
	is(statuses(exchange("$start${host}Expect: 100-continue\r\nContent-Length: $hundred\r\n\r\n")), '413', 'refused before it is sent');
	$answer = http_raw($port, "$start${host}Content-Length: " . 300 * 1024 . "\r\n\r\n" . 'x' x (300 * 1024));
	is($answer->{status}, 413, 'a little too large');
}

#
# Compression
#
sub post_encoded
{
	my ($encoding, $body) = @_;
	return http_post($port, '/v1/batch', { %auth, defined $encoding ? ('Content-Encoding' => $encoding) : () }, $body);
}

sub outcome
{
	my ($answer) = @_;
	return $answer ? $answer->{status} . ' ' . ($answer->{json}{code} || $answer->{json}{stored}) : 'none';
}

{
	my $raw = sub {
		my ($deflate) = deflateInit(-WindowBits => -MAX_WBITS);
		return $deflate->deflate($_[0]) . $deflate->flush;
	};
	my $body = call();
	my $cut = length($body) / 2;
	is(outcome(post_encoded('gzip', Compress::Zlib::memGzip(substr $body, 0, $cut) . Compress::Zlib::memGzip(substr $body, $cut))), '200 1', 'gzip of two members');
	is(outcome(post_encoded('deflate', $raw->(call()))), '200 1', 'bare deflate');
	is(outcome(post_encoded('deflate', Compress::Zlib::compress(call()))), '200 1', 'zlib');
	is(outcome(post_encoded('GZip', Compress::Zlib::memGzip(call()))), '200 1', 'encodings have no case');
	is(outcome(post_encoded('identity', call())), '200 1', 'identity');
	is(outcome(post_encoded('br', call())), '200 1', 'an encoding that a proxy has undone');
	is(outcome(post_encoded('br', "\x8b\x03\x80abc")), '415 unsupported_encoding', 'br');
	is(outcome(post_encoded('zstd', "\x28\xb5\x2f\xfd\x24\x00")), '415 unsupported_encoding', 'zstd');
	is(outcome(post_encoded('gzip, gzip', Compress::Zlib::memGzip(Compress::Zlib::memGzip(call())))), '415 unsupported_encoding', 'gzip in gzip');
	is(outcome(post_encoded(undef, Compress::Zlib::memGzip(Compress::Zlib::memGzip(call())))), '415 unsupported_encoding', 'gzip in gzip that says nothing');
	is(outcome(post_encoded('gzip', substr(Compress::Zlib::memGzip(call()), 0, -9))), '400 invalid_compression', 'truncated gzip');
	is(outcome(post_encoded('gzip', Compress::Zlib::memGzip(call()) . 'junk')), '400 invalid_compression', 'junk behind gzip');
	is(outcome(post_encoded('deflate', "\xff\xff\xff\xff")), '400 invalid_compression', 'nonsense as deflate');
	my $bomb = Compress::Zlib::memGzip("\0" x 50_000_000);
	is(outcome(post_encoded('gzip', $bomb)), '413 body_too_large', 'a bomb');
	is(outcome(post_encoded('gzip', join '', ($bomb) x 3)), '413 body_too_large', 'three bombs in a row');
	is(outcome(post_encoded('gzip', Compress::Zlib::memGzip($bomb))), '415 unsupported_encoding', 'a bomb in a shell');
	is(outcome(post_encoded('gzip', Compress::Zlib::memGzip(call()))), '200 1', 'the next one is served');
}

#
# One connection after mistakes
#
{
	my $socket = http_connect($port);
	for (1 .. 3)
	{
		http_send($socket, 'POST', '/v1/track', {%auth}, '{nonsense');
		is(http_read($socket)->{status}, 400, 'a bad body');
		http_send($socket, 'POST', '/v1/nothing', {%auth}, call());
		is(http_read($socket)->{status}, 404, 'a bad path');
		http_send($socket, 'POST', '/v1/track', {%auth}, call());
		is(http_read($socket)->{json}{stored}, 1, 'a good one on the same connection');
	}
	my $pipeline = '';
	for my $i (1 .. 50)
	{
		my $body = $i % 5 ? call() : '{nonsense';
		$pipeline .= "$start${host}Content-Length: " . length($body) . "\r\n\r\n$body";
	}
	is(statuses(exchange($pipeline, until => 50)), join(' ', ((200) x 4, 400) x 10), 'fifty requests at once, answered in order');
}

#
# Keys that come twice: the last one counts, as PostgreSQL and the SDKs' own
# JSON parsers have it.
#
{
	my $answer = http_post($port, '/v1/track', {%auth},
		'{"event":"First","event":"Last","userId":"a","userId":"b","messageId":"twice","properties":{"p":1,"p":2}}');
	is($answer->{json}{stored}, 1, 'an event with keys that come twice');
	is(sql(q{SELECT event, user_id, properties FROM cdi.events WHERE message_id = 'twice'}), 'Last|b|{"p": 2}', 'the last one counts');
}

#
# Every file of JSONTestSuite (github.com/nst/JSONTestSuite) as the value of a
# property: what is JSON is stored, what is not is refused, and the neighbours
# do not notice.
#
SKIP:
{
	my ($suite) = grep { defined && -d } $ENV{JSON_TEST_SUITE},
	  map { "$_/shared/data/JSONTestSuite/test_parsing" } map { "$FindBin::RealBin/$_" } '../../..', '../../../..', '../../../../..';
	skip 'JSONTestSuite is not there: set JSON_TEST_SUITE to its folder test_parsing', 3 unless $suite;
	my %wrong;
	my %count;
	my %pg_cannot = map { $_ => 1 } qw(y_string_null_escape.json y_object_escaped_null_in_key.json);
	my $left = 0;
	for my $path (sort glob "$suite/*.json")
	{
		my ($name) = $path =~ m{([^/]+)$};
		my ($kind) = $name =~ /^([yni])_/ or next;
		my $text = slurp_file($path);
		my ($before, $after) = (call(), call());
		my $middle = qq({"type":"track","event":"E","userId":"u","messageId":"suite-$name","properties":{"v":$text}});
		my $answer = http_post($port, '/v1/batch', {%auth}, qq({"batch":[$before,$middle,$after]}));
		$count{$kind}++;
		if (!$answer || !$answer->{json}) { $wrong{$name} = 'no answer'; next }

		# A text that closes brackets of ours is another body: alone it is refused.
		my $alone = http_post($port, '/v1/track', {%auth}, $middle);
		if ($kind eq 'y' && !$pg_cannot{$name})
		{
			$wrong{$name} = outcome($answer) unless $answer->{status} == 200 && $answer->{json}{stored} == 3;
		}
		elsif ($kind eq 'n')
		{
			$wrong{$name} = outcome($alone) unless $alone && $alone->{status} == 400 && $alone->{json}{code} && $alone->{json}{message};
		}
		else
		{
			$wrong{$name} = outcome($alone) unless $alone && $alone->{status} =~ /^(200|400)$/;
			$left++ unless $answer->{status} == 400 || $answer->{json}{stored} >= 2;
		}
	}
	is_deeply(\%wrong, {}, 'JSONTestSuite: every file as it should be');
	is($left, 0, 'JSONTestSuite: neighbours are stored');
	cmp_ok($count{y} * $count{n} * $count{i}, '>', 90 * 180 * 30, 'JSONTestSuite: all of it');
}

is(http_get($port, '/health')->{body}, '{"status":"ok"}', 'healthy after all that');
is( sql(q{SELECT bool_and(received = stored + duplicate + failed + withheld),
	sum(stored) = (SELECT count(*) FROM cdi.events),
	sum(failed) = (SELECT count(*) FROM cdi.failed_events) FROM cdi.pipeline_counts}),
	't|t|t', 'accounts add up');
unlike(slurp_file($node->logfile), qr/PANIC|TRAP:|terminated by signal/, 'no process crashed');
$node->stop;
done_testing();
