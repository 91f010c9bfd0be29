# Bulk import under kill -9 and cancellation: nothing is lost and nothing comes
# twice, although the events have no message ids by which a second copy would
# be known; others see how far it is; memory does not grow with the stream.
use strict;
use warnings;

use IO::Handle;
use POSIX qw(mkfifo);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use CdiWait;

my $lines = 40_000;
my $bad_every = 20;
my $stored = $lines - $lines / $bad_every;
my $failed = $lines / $bad_every;
my $form = q(WITH (FORMAT csv, QUOTE E'\x01', DELIMITER E'\x02'));

my $node = PostgreSQL::Test::Cluster->new('import');
$node->init;
$node->append_conf('postgresql.conf', qq(
shared_preload_libraries = 'cdi'
restart_after_crash = on
shared_buffers = 16MB
max_wal_size = 1GB
));
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE shop');
$node->safe_psql('shop', 'CREATE EXTENSION cdi');
$node->safe_psql('shop', 'SELECT cdi_init()');
$node->safe_psql('shop', "SELECT cdi_create_source('$_')") for 'file', 'stream', 'wide', 'history';

my $file = $node->basedir . '/events.ndjson';
open(my $out, '>', $file) or die $!;
for my $n (1 .. $lines)
{
	print $out $n % $bad_every == 0
		? qq({"type": "track", "event": "of nobody $n"}\n)
		: qq({"type": "track", "userId": "u@{[$n % 500]}", "event": "Imported", "properties": {"n": $n}}\n);
}
close $out;
my $size = -s $file;

sub start
{
	my ($name, @commands) = @_;
	my %run = (out => '', err => '');

	$run{handle} = IPC::Run::start([ 'psql', '-X', '-v', 'ON_ERROR_STOP=1', '-d',
			$node->connstr('shop') . " application_name=$name", map { ('-c', $_) } @commands ],
		'<', \undef, '>', \$run{out}, '2>', \$run{err});
	return \%run;
}

sub finish
{
	my ($run) = @_;

	$run->{handle}->finish;
	return $run->{handle}->result(0);
}

# A query's answer, once it is not empty; also while the server restarts
sub wait_for
{
	my ($sql) = @_;
	my $answer;

	wait_until(sub { ($answer = try_sql($node, 'shop', $sql) // '') ne '' });
	return $answer;
}

sub check_all
{
	my ($source, $import) = @_;
	my $events = "cdi.events JOIN cdi.sources s USING (source_id) WHERE s.name = '$source'";

	is($node->safe_psql('shop', "SELECT lines, stored, duplicate, failed FROM cdi.imports WHERE name = '$import'"),
		"$lines|$stored|0|$failed", "$source: the import counts every line once");
	is($node->safe_psql('shop', "SELECT count(*), count(DISTINCT properties ->> 'n') FROM $events"),
		"$stored|$stored", "$source: every event is there once");
	is($node->safe_psql('shop', "SELECT count(*), count(*) FILTER (WHERE line % $bad_every = 0 AND payload LIKE '%of nobody ' || line || '\"}'), count(DISTINCT line) FROM cdi.import_failures WHERE import = '$import'"),
		"$failed|$failed|$failed", "$source: every failure names its line");
	is($node->safe_psql('shop', "SELECT received, stored, duplicate, failed FROM cdi.pipeline_counts WHERE source = '$source'"),
		"$lines|$stored|0|$failed", "$source: and so do the source's counters");
}

# Some lines wait while somebody holds their number: an import stays where it is
# until the test has done what it has to do meanwhile, however fast it is.
$node->safe_psql('shop', q(CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_catalog.pg_advisory_xact_lock_shared((NEW.properties ->> ''n'')::int); RETURN NEW; END';
	CREATE TRIGGER gate BEFORE INSERT ON cdi.events FOR EACH ROW WHEN (NEW.properties ->> 'n' IN ('10001', '20001')) EXECUTE FUNCTION gate()));
sub close_gate
{
	my ($line) = @_;
	my $session = $node->background_psql('shop');

	$session->query_safe("SELECT pg_advisory_lock($line)");
	return $session;
}

# A file of the server
my $call = "CALL cdi_import('$file', 'nightly', 'file', batch_lines => 500)";
my $gate = close_gate(10001);
my $run = start('import', $call);
my $seen = wait_for(q(SELECT import, source, command, datname, bytes_total, bytes_processed > 0, lines_processed = stored + failed
	FROM cdi.stat_progress_import WHERE stored > 2000));
is($seen, "nightly|file|CALL|shop|$size|t|t", 'another session sees how far it is');
is($node->safe_psql('shop', q(SELECT command, type, bytes_total FROM pg_stat_progress_copy)), "COPY FROM|FILE|$size", 'in pg_stat_progress_copy as well');
my ($status, $stdout, $stderr) = $node->psql('shop', $call);
like($stderr, qr/import "nightly" is being run by another session/, 'one session at a time works on it');
cmp_ok($node->safe_psql('shop', q(SELECT cdi_advance_watermark())), '>', 0, 'the watermark does not wait for its end');
ok(crash($node, q(SELECT pid FROM cdi.stat_progress_import), 'shop'), 'the server restarts');
isnt(finish($run), 0, 'its backend is killed');
eval { $gate->quit };
my $done = wait_for(q(SELECT lines FROM cdi.imports WHERE name = 'nightly'));
ok($done > 2000 && $done < $lines && $done % 500 == 0, "what was committed is there ($done lines)");

# Cancelled, and gone on with in the same session
$gate = close_gate(20001);
$run = start('import', $call);
is(wait_for(q(SELECT pg_cancel_backend(pid) FROM cdi.stat_progress_import JOIN pg_locks USING (pid) WHERE locktype = 'advisory' AND NOT granted)), 't', 'the same CALL');
isnt(finish($run), 0, 'is cancelled');
$gate->quit;
like($run->{err}, qr/canceling statement due to user request/, 'by somebody else');
my $after = $node->safe_psql('shop', q(SELECT lines FROM cdi.imports WHERE name = 'nightly'));
ok($after > $done && $after < $lines, "it went on where it was ($after lines)");
is($node->safe_psql('shop', $call), "$lines|$stored|0|$failed|0", 'the same CALL ends it');
check_all('file', 'nightly');
is($node->safe_psql('shop', $call), "$lines|$stored|0|$failed|0", 'once more it does nothing');
is($node->safe_psql('shop', q(SELECT count(*) FROM cdi.stat_progress_import)), '0', 'no progress is left behind');

# A stream in one COPY: all or nothing, then the same command again
my @copy = (q(SELECT cdi_import_open('whole', 'stream')), "\\copy cdi.import FROM '$file' $form");
$gate = close_gate(10001);
$run = start('import', @copy);
like(wait_for(q(SELECT import, source, command, bytes_total FROM cdi.stat_progress_import WHERE stored > 2000)),
	qr/^whole\|stream\|COPY\|0$/, 'a stream shows its progress');
ok(crash($node, q(SELECT pid FROM cdi.stat_progress_import), 'shop'), 'the server restarts');
isnt(finish($run), 0, 'its backend is killed');
eval { $gate->quit };
is(wait_for(q(SELECT lines FROM cdi.imports WHERE name = 'whole')), '0', 'one COPY is one transaction');

$node->safe_psql('shop', 'DROP TRIGGER gate ON cdi.events');

# A stream in pieces, as docs/import.md has it: what is committed stays
my $piece = $node->basedir . '/piece.sh';
append_to_file($piece, <<"SH");
psql -Xq -v ON_ERROR_STOP=1 \\
    -c "SELECT cdi_import_open('whole', 'stream', first_line => 2000 * '\${FILE#x}'::bigint + 1)" \\
    -c "\\copy cdi.import FROM pstdin $form"
SH
$ENV{PGHOST} = $node->host;
$ENV{PGPORT} = $node->port;
$ENV{PGDATABASE} = 'shop';
my @split = ('split', '-d', '-a', '6', '-l', '2000', "--filter=sh $piece");
my $fifo = $node->basedir . '/fifo';
mkfifo($fifo, 0600) or die $!;
my ($split_out, $split_err) = ('', '');
my $split = IPC::Run::start([ @split, $fifo ], '<', \undef, '>', \$split_out, '2>', \$split_err);
# The fourth piece lacks its last lines until its backend is killed.
my ($first, $rest) = slurp_file($file) =~ /\A((?:[^\n]*\n){7900})(.*)\z/s;
open(my $pipe, '>', $fifo) or die $!;
$pipe->autoflush;
$SIG{PIPE} = 'IGNORE';
print $pipe $first;
ok(crash($node, q(SELECT pid FROM cdi.stat_progress_import WHERE (SELECT lines FROM cdi.imports WHERE name = 'whole') = 6000), 'shop'), 'the server restarts in the fourth piece');
print $pipe $rest;
close $pipe;
$split->finish;
isnt($split->result(0), 0, 'a killed backend stops the pieces');
is(wait_for(q(SELECT lines FROM cdi.imports WHERE name = 'whole')), '6000', 'whole pieces are there');
push @split, $file;
is(system(@split), 0, 'the same command again runs to the end');
check_all('stream', 'whole');
command_ok([ 'psql', '-X', '-v', 'ON_ERROR_STOP=1', map { ('-c', $_) } @copy ], 'so does one COPY of everything');
check_all('stream', 'whole');

# 200 MB in one COPY: memory stays what it is (16 MB of it are shared buffers)
my $wide = q(FROM PROGRAM 'perl -e ''$p = "x" x 3300; print qq({"type": "track", "userId": "w", "event": "Wide", "properties": {"n": $_, "p": "$p"}}\n) for 1 .. 60000''');
$run = start('import', q(SELECT cdi_import_open('wide', 'wide')), "\\copy cdi.import $wide $form", q(SELECT 'peak ' || m[1] FROM regexp_match(pg_read_file('/proc/self/status'), 'VmHWM:\s+(\d+)') m));
is(finish($run), 0, '200 MB go in') or diag($run->{err});
my ($peak) = $run->{out} =~ /peak (\d+)/;
cmp_ok($peak, '<', 100_000, "the backend took at most 100 MB ($peak kB)");
is($node->safe_psql('shop', q(SELECT lines, stored, bytes > 190000000 FROM cdi.imports WHERE name = 'wide')), '60000|60000|t', 'all of it');

# History of ten years while others send: their events do not wait for it.
my $history = $node->basedir . '/history.ndjson';
open($out, '>', $history) or die $!;
printf $out qq({"type": "track", "userId": "h", "event": "History", "timestamp": "%04d-%02d-%02dT12:00:00Z"}\n), 2011 + $_ % 10, 1 + $_ % 12, 1 + $_ % 28 for 1 .. 24_000;
close $out;
$run = start('import', "CALL cdi_import('$history', 'history', 'history', history => true, batch_lines => 2000)");
my $tracked = 0;
while ($run->{handle}->pumpable)
{
	$node->safe_psql('shop', q(SET statement_timeout = '60s'; SELECT cdi_track('h', 'Meanwhile')));
	$tracked++;
	$run->{handle}->pump_nb;
}
is(finish($run), 0, "history goes in while $tracked events are tracked") or diag($run->{err});
is($node->safe_psql('shop', q(SELECT count(*), count(DISTINCT e.tableoid), count(*) FILTER (WHERE e.received_at = e."timestamp" AND e.tableoid <> 'cdi.events_default'::regclass)
	FROM cdi.events e WHERE e.event = 'History')), '24000|60|24000', 'every event in the month of its own');
is($node->safe_psql('shop', q(SELECT count(*) FROM cdi.events WHERE event = 'Meanwhile')), $tracked, 'and theirs are all there');

# What COPY itself would refuse fails alone; other encodings are converted.
sub stream
{
	my ($name, $printf, $with) = @_;
	my $run = start('import', "SELECT cdi_import_open('$name', 'wide')", "\\copy cdi.import FROM PROGRAM 'printf ''$printf''' $with");

	finish($run);
	return $run->{err};
}
my $call_of = sub { return qq({"type": "track", "userId": "e", "event": "$_[0]"}) };
stream('bytes', $call_of->('one') . '\r\n' . $call_of->('t\377o') . '\n' . $call_of->('\001three') . '\n\n' . $call_of->('f\002') . '\r\n' . $call_of->('six'), '');
is($node->safe_psql('shop', q(SELECT lines, stored FROM cdi.imports WHERE name = 'bytes')), '6|2', 'bytes that are no text and line ends of two kinds are no hindrance');
is($node->safe_psql('shop', q(SELECT string_agg(line || ' ' || sqlstate, ', ' ORDER BY line) FROM cdi.import_failures WHERE import = 'bytes')),
	'2 ZC207, 3 ZC201, 5 ZC201', 'their lines fail alone');
$ENV{PGCLIENTENCODING} = 'LATIN1';
stream('latin', $call_of->('caf\351') . '\n', $form);
delete $ENV{PGCLIENTENCODING};
is($node->safe_psql('shop', q(SELECT count(*) FROM cdi.events WHERE event = U&'caf\00e9')), '1', 'the client may send another encoding');

# A client that goes away
$run = start('import', q(SELECT cdi_import_open('gone', 'wide')), q(\copy cdi.import FROM PROGRAM 'yes ""'));
wait_for(q(SELECT 1 FROM cdi.stat_progress_import WHERE import = 'gone'));
$run->{handle}->kill_kill;
is(wait_for(q(SELECT 'ended' WHERE NOT EXISTS (SELECT FROM cdi.stat_progress_import))), 'ended', 'a client that is killed ends its COPY');

# Where the library is not loaded before, the triggers of the view do it.
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''\n");
$node->restart;
my $copy_late = sub { return $node->psql('shop', "COPY cdi.import FROM STDIN $_[0];\n" . $call_of->('late \"q\" \\\\') . "\nbad\n\\.\n") };
($status, $stdout, $stderr) = $copy_late->('');
like($stderr, qr/COPY into cdi.import does not take the text format/, 'without the library the text format is refused');
$copy_late->($form);
is($node->safe_psql('shop', q(SELECT lines, stored, failed FROM cdi.imports ORDER BY import_id DESC LIMIT 1)), '2|1|1', 'and the documented form is taken');
is($node->safe_psql('shop', q(SELECT count(*) FROM cdi.events WHERE event = 'late "q" \\')), '1', 'byte by byte');
is(finish(start('import', @copy)), 0, 'one COPY of everything, again');
check_all('stream', 'whole');

$node->stop;
done_testing();
