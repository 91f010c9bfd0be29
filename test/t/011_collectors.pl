# Several collectors of one database: they share its port and nobody else's,
# their number follows the setting, each comes back when it ends, and nothing
# that was acknowledged is lost meanwhile.
use strict;
use warnings;

use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use FindBin;
use lib $FindBin::RealBin;
use CdiHttp;
use CdiWait;

my $port = PostgreSQL::Test::Cluster::get_free_port();
my $node = PostgreSQL::Test::Cluster->new('collectors');
$node->init(extra => [ '--encoding=UTF8', '--no-locale' ]);
$node->append_conf('postgresql.conf', <<CONF);
fsync = off
shared_preload_libraries = 'cdi'
max_worker_processes = 14
restart_after_crash = on
CONF
$node->start;
$node->safe_psql('postgres', "CREATE DATABASE $_") for 'shop', 'other';
$node->safe_psql($_, 'CREATE EXTENSION cdi; SELECT cdi_init()') for 'shop', 'other';
my $key = $node->safe_psql('shop', q(SELECT cdi_create_source('web')));

sub sql
{
	return $node->safe_psql('shop', $_[0]);
}

sub workers
{
	my ($number) = @_;
	$node->safe_psql('postgres', "ALTER DATABASE shop SET cdi.collector_workers = $number");
}

# Numbers of the collectors that run, and then their pids
my $running = q(SELECT string_agg(number::text, ',' ORDER BY number) FROM cdi.workers WHERE kind = 'collector' AND state = 'running');

sub pids
{
	return split /,/, sql(q(SELECT string_agg(pid::text, ',' ORDER BY number) FROM cdi.workers WHERE kind = 'collector' AND state = 'running'));
}

sub slurp_lines
{
	open my $file, '<', $_[0] or return ();
	return <$file>;
}

# Until so many sockets listen; the collectors do so just after they run.
sub listening
{
	my ($number, $name, $on) = @_;
	ok(wait_until(sub { http_sockets($on || $port) == $number }), $name) or diag(http_sockets($on || $port) . ' listen');
}

sub metrics
{
	my %values;
	my $answer = http_get($port, '/metrics');
	$values{$1} = $2 while $answer->{body} =~ /^(cdi_\w+(?:\{[^}]*\})?) (\S+)$/mg;
	return \%values;
}

sub between
{
	my ($got, $least, $most, $name) = @_;
	ok($got >= $least && $got <= $most, $name) or diag("$got is not between $least and $most");
}

my $sequence = 0;

sub event
{
	return { event => 'Tested', userId => 'u1', messageId => 'm-' . ++$sequence };
}

# A client that posts until it is told to stop, on connections that it keeps
# for some events, and sends again what was not acknowledged.  Its file then
# has the message ids that were.
sub client
{
	my ($name, $to) = @_;
	my $file = $node->basedir . "/$name.acknowledged";
	my $parent = $$;
	my $pid = fork;
	die "fork: $!" unless defined $pid;
	return { name => $name, pid => $pid, file => $file } if $pid;

	my $stop = 0;
	my ($n, $socket) = (0);
	local $SIG{TERM} = sub { $stop = 1 };
	local $SIG{PIPE} = 'IGNORE';
	open my $log, '>', $file or POSIX::_exit(1);
	while (!$stop)
	{
		my $id = "$name-" . ++$n;
		while (!$stop)
		{
			# A test that died has no use for this any more.
			POSIX::_exit(1) if getppid != $parent;
			my $answer = eval {
				$socket ||= http_connect($to);
				http_send($socket, 'POST', '/v1/track', { basic("$key:") }, qq({"event":"Loaded","userId":"u1","messageId":"$id"}));
				http_read($socket);
			};
			undef $socket if !$answer || $n % 5 == 0 || lc($answer->{headers}{connection} || '') eq 'close';
			if ($answer && $answer->{status} == 200)
			{
				print $log "$id\n";
				last;
			}
			sleep 0.05;
		}
	}
	close $log;
	POSIX::_exit(0);
}

# Until so many events of clients are stored
sub stored_by
{
	my ($number, @clients) = @_;
	my $prefixes = join ',', map { "'$_->{name}-%'" } @clients;

	sql_becomes($node, 'shop', "SELECT count(*) >= $number FROM cdi.events WHERE message_id LIKE ANY (ARRAY[$prefixes])")
	  or fail("$number events of $prefixes are stored");
}

# The clients stop; what was acknowledged is stored, once.
sub stored_ok
{
	my ($name, @clients) = @_;
	my @acknowledged;

	stored_by(30, @clients);
	kill 'TERM', map { $_->{pid} } @clients;
	waitpid $_->{pid}, 0 for @clients;
	push @acknowledged, map { chomp; $_ } slurp_lines($_->{file}) for @clients;
	cmp_ok(scalar @acknowledged, '>', 20, "$name: events were acknowledged");
	is(sql('SELECT count(*) FROM unnest($${' . join(',', @acknowledged) . '}$$::text[]) id WHERE (SELECT count(*) FROM cdi.events e WHERE e.message_id = id) <> 1'),
		'0', "$name: each is stored once");
}

#
# They start, and share the port
#
$node->safe_psql('postgres', "ALTER DATABASE shop SET cdi.collector_port = $port");
listening(1, 'one collector unless said otherwise');
my ($first) = pids();
$node->poll_query_until('shop', q(SELECT state = 'running' FROM cdi.workers WHERE kind = 'keeper'));
my $keeper = sql(q(SELECT pid FROM cdi.workers WHERE kind = 'keeper'));

workers(3);
listening(3, 'three share the port');
is(sql($running), '1,2,3', 'cdi.workers numbers them');
my @pids = pids();
is($pids[0], $first, 'the first one was not disturbed');
is(sql(q(SELECT pid FROM cdi.workers WHERE kind = 'keeper')), $keeper, 'nor was the keeper');
is(sql(q(SELECT string_agg(application_name, ',' ORDER BY application_name) FROM pg_stat_activity WHERE backend_type = 'cdi collector')),
	'cdi collector,cdi collector 2,cdi collector 3', 'pg_stat_activity names them');

is(http_post($port, '/v1/track', { basic("$key:") }, event())->{status}, 200, "event $_ on a connection of its own") for 1 .. 2;
http_post($port, '/v1/track', { basic("$key:") }, event()) for 1 .. 58;
# Each publishes its numbers just after its answers.
ok(wait_until(sub { http_metric($port, 'cdi_collector_events_total') >= 60 }), '/metrics of one shows the events of all');
my ($before, $metrics) = (undef, metrics());
my @events = map { $metrics->{qq(cdi_collector_events_total{worker="$_"})} || 0 } 1 .. 3;
is($events[0] + $events[1] + $events[2], 60, 'and each once');
# 60 connections that the kernel spreads over three: all miss one with (2/3)^60.
is(scalar(grep { $_ > 0 } @events), 3, 'each took some');
is(join(',', map { $metrics->{qq(cdi_collector_up{worker="$_"})} } 1 .. 3), '1,1,1', 'all are up');
{
	# OpenMetrics: the lines of a family stand together, under one TYPE.
	my ($family, %seen) = ('');
	my $wrong = 0;
	for (split /\n/, http_get($port, '/metrics')->{body})
	{
		if (/^# TYPE (\w+)/) { $family = $1; $wrong++ if $seen{$family}++ }
		elsif (/^# HELP (\w+)/) { $wrong++ if $1 ne $family }
		elsif (!/^#/) { $wrong++ if !/^\Q$family\E(_total|_bucket|_count|_sum)?[ {]/ }
	}
	is($wrong, 0, 'the families of /metrics are whole');
}
is($metrics->{qq(cdi_collector_commit_seconds_bucket{worker="$_",le="+Inf"})}, $metrics->{qq(cdi_collector_commit_seconds_count{worker="$_"})}, "histogram of collector $_ is whole")
  for 1 .. 3;
is(sql('SELECT count(*) FROM cdi.events'), 60, 'all are stored');

#
# A source has one limit, whichever collector a request comes to
#
{
	my %key = map { $_ => sql("SELECT cdi_create_source('$_')") } 'slow', 'bulky';
	my ($bytes, $id) = (0, 0);
	my $post = sub {
		my ($source, $events) = @_;
		my $body = '{"batch":[' . join(',', map { '{"type":"track","event":"Limited","userId":"u1","messageId":"limited-' . ++$id . '"}' } 1 .. $events) . ']}';
		$bytes += length $body if $source eq 'slow';
		return http_post($port, '/v1/batch', { basic("$key{$source}:") }, $body);
	};

	# One event in 100 seconds, and 20 at once.
	sql(q(SELECT cdi_alter_source('slow', '{"rate_limit": 0.01, "rate_burst": 20}')));
	$before = metrics();
	my $began = time;
	my @answers = map { $post->('slow', 1) } 1 .. 30;
	my $passed = time - $began;
	is(join(',', map { $_->{status} } @answers), join(',', (200) x 20, (429) x 10), 'the burst is let in, the rest is not');
	$metrics = metrics();
	cmp_ok(scalar(grep { my $name = qq(cdi_collector_answers_total{class="2xx",worker="$_"}); $metrics->{$name} > $before->{$name} } 1 .. 3),
		'>', 1, 'by several collectors');
	is($answers[29]{json}{code}, 'rate_limited', 'and told so');
	# A token is free at 100 s, less what has passed.
	between($answers[29]{headers}{'retry-after'}, 100 - $passed, 100, 'and when to come again');
	is(sql(q(SELECT stored, failed FROM cdi.stat_sources WHERE source = 'slow')), '20|0', 'no event of the others is recorded');
	is(sql(q(SELECT requests, body_bytes, accepted, refused, rate_limited, too_large, unavailable FROM cdi.stat_sources WHERE source = 'slow')),
		"30|$bytes|20|0|10|0|0", 'cdi.stat_sources counts all');
	is(sql(q(SELECT last_request_at BETWEEN now() - interval '1 minute' AND now(), since BETWEEN pg_postmaster_start_time() - interval '1 second' AND last_request_at FROM cdi.stat_sources WHERE source = 'slow')),
		't|t', 'with times');
	is($metrics->{'cdi_source_requests_total{source="slow"}'}, 30, '/metrics has requests per source');
	is($metrics->{'cdi_source_answers_total{source="slow",outcome="rate_limited"}'}, 10, 'and what became of them');
	is($metrics->{'cdi_source_body_bytes_total{source="slow"}'}, $bytes, 'and their bytes');

	sql(q(SELECT cdi_alter_source('slow', '{"rate_limit": null}')));
	is($post->('slow', 1)->{status}, 200, 'without the limit it is let in');

	# A request is taken whole, and the source is in debt: 50 events of 100 s,
	# of which 20 may be owed, and one for the next.
	sql(q(SELECT cdi_alter_source('bulky', '{"rate_limit": 0.01, "rate_burst": 20, "max_body": 8}')));
	$began = time;
	is($post->('bulky', 50)->{status}, 200, 'a request of more than the burst is taken');
	my $answer = $post->('bulky', 1);
	is($answer->{status}, 429, 'and the next one waits');
	between($answer->{headers}{'retry-after'}, 3100 - (time - $began), 3100, 'until that is paid');
	is(sql(q(SELECT stored FROM cdi.stat_sources WHERE source = 'bulky')), 50, 'all 50 are stored');
	sql(q(SELECT cdi_alter_source('bulky', '{"rate_limit": 10000, "rate_burst": null}')));
	is($post->('bulky', 1)->{status}, 200, 'another limit begins anew');
	is($post->('bulky', 200)->{status}, 413, 'a body above max_body is refused');
	is(sql(q(SELECT requests, accepted, rate_limited, too_large FROM cdi.stat_sources WHERE source = 'bulky')), '4|2|1|1', 'and counted');
	sql(q(DELETE FROM cdi.sources WHERE name = 'bulky'));
	is($post->('bulky', 1)->{status}, 401, 'a source that is deleted has no key');
	unlike(http_get($port, '/metrics')->{body}, qr/bulky/, 'and is shown no more');
}

#
# Nobody else may share it
#
$node->safe_psql('postgres', "ALTER DATABASE other SET cdi.collector_port = $port");
$node->safe_psql('postgres', 'ALTER DATABASE other SET cdi.collector_workers = 2');
$node->wait_for_log(qr/cdi collector cannot listen: could not bind socket for "127\.0\.0\.1", port $port: Address already in use/);
$node->wait_for_log(qr/cdi collector 2 cannot listen: .*Address already in use/);
is(http_sockets($port), 3, 'a second database gets no share of the port');
my %statuses;
$statuses{ http_post($port, '/v1/track', { basic("$key:") }, event())->{status} }++ for 1 .. 20;
is_deeply(\%statuses, { 200 => 20 }, 'nor of the requests');
$node->safe_psql('postgres', 'ALTER DATABASE other RESET ALL');

#
# Up and down under load
#
my @clients = map { client("load$_", $port) } 1 .. 4;
my $stored = 0;
for my $number (1, 4, 2, 3)
{
	workers($number);
	listening($number, "$number under load");
	stored_by($stored += 10, @clients);
}
stored_ok('up and down', @clients);
is((pids())[0], $first, 'the first one was there all the time');
is(sql('SELECT pid FROM cdi.workers WHERE kind = \'keeper\''), $keeper, 'and the keeper');

#
# One ends
#
@pids = pids();
$before = metrics()->{'cdi_collector_events_total{worker="2"}'};
@clients = map { client("end$_", $port) } 1 .. 4;
stored_by(10, @clients);
kill 'TERM', $pids[1];
ok($node->poll_query_until('shop', "SELECT count(*) = 3 AND count(*) FILTER (WHERE pid = $pids[1]) = 0 FROM cdi.workers WHERE kind = 'collector' AND state = 'running'"),
	'one that was terminated comes back');
listening(3, 'and listens');
stored_ok('one terminated', @clients);
is(join(',', (pids())[ 0, 2 ]), join(',', @pids[ 0, 2 ]), 'its siblings go on');
cmp_ok(metrics()->{'cdi_collector_events_total{worker="2"}'}, '>=', $before, 'and its counters go on from where they were');

#
# Events that are parked wake the collector that has them
#
{
	my $session = $node->background_psql('shop');
	my @sockets;

	$session->query_safe('BEGIN');
	$session->query_safe(qq(SELECT cdi_ingest('{"type": "track", "event": "Held", "userId": "u1", "messageId": "held-$_"}', 'web'))) for 1 .. 9;
	for (1 .. 9)
	{
		push @sockets, http_connect($port);
		http_send($sockets[-1], 'POST', '/v1/track', { basic("$key:") }, qq({"event":"Held","userId":"u1","messageId":"held-$_"}));
	}
	ok(wait_until(sub { http_metric($port, 'cdi_collector_parked_requests') == 9 }), 'requests wait, in whichever collector they are');
	$session->query_safe('COMMIT');
	is(join(',', map { http_read($_)->{json}{duplicate} } @sockets), join(',', (1) x 9), 'the commit wakes all of them');
	$session->quit;
}

#
# Another port
#
my $second = PostgreSQL::Test::Cluster::get_free_port();
@clients = map { client("port$_", $port) } 1 .. 2;
stored_by(10, @clients);
$node->safe_psql('postgres', "ALTER DATABASE shop SET cdi.collector_port = $second");
listening(3, 'all move to another port', $second);
listening(0, 'none stays');
push @clients, map { client("moved$_", $second) } 1 .. 2;
stored_by(10, @clients[ 2, 3 ]);
kill 'TERM', map { $_->{pid} } @clients[ 0, 1 ];
$node->safe_psql('postgres', "ALTER DATABASE shop SET cdi.collector_port = $port");
listening(3, 'and back');
stored_ok('another port', @clients);

# By a reload: every collector moves by itself.
$node->safe_psql('postgres', 'ALTER DATABASE shop RESET cdi.collector_port');
listening(0, 'no port, no collector');
ok($node->poll_query_until('shop', q(SELECT count(*) = 1 AND bool_and(state = 'off') FROM cdi.workers WHERE kind = 'collector')), 'of those that are off one is shown');
$node->append_conf('postgresql.conf', "cdi.collector_port = $port");
# Without a port of its own the other database would want this one, too.
$node->safe_psql('postgres', 'ALTER DATABASE other SET cdi.enabled = off');
$node->reload;
listening(3, 'a port for the server');
$node->append_conf('postgresql.conf', "cdi.collector_port = $second");
$node->reload;
listening(3, 'another one', $second);
listening(0, 'in place of the first');
$node->append_conf('postgresql.conf', "cdi.collector_port = $port");
$node->reload;
listening(3, 'and back again');

#
# Not enough processes
#
workers(20);
$node->wait_for_log(qr/out of background worker slots: could not start "cdi collector \d+ \(shop\)"/);
ok($node->poll_query_until('shop', q(SELECT count(*) FILTER (WHERE state = 'waiting') > 0 AND count(*) = 20 FROM cdi.workers WHERE kind = 'collector')),
	'those for which there is no process wait');
workers(2);
listening(2, 'and are given up');

#
# One is killed: the server restarts everything
#
@clients = map { client("kill$_", $port) } 1 .. 4;
stored_by(10, @clients);
ok(crash($node, q(SELECT pid FROM pg_stat_activity WHERE application_name = 'cdi collector 2')), 'all end when one is killed');
ok(sql_becomes($node, 'shop', $running, '1,2'), 'and come back');
listening(2, 'and listen');
stored_ok('one killed', @clients);
is(sql(q(SELECT requests, since IS NULL FROM cdi.stat_sources WHERE source = 'slow')), '0|t', 'requests are counted anew');
is(sql('SELECT sum(received) = sum(stored + duplicate + failed + withheld), sum(stored) = (SELECT count(*) FROM cdi.events) FROM cdi.pipeline_deltas'),
	't|t', 'the accounts add up');

$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP:/, 'no assertion failed');
done_testing();
