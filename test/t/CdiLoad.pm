# A server under load while something goes wrong, and what has to be true
# afterwards (test/t/070_faults.pl, 071_faults.pl).
package CdiLoad;

use strict;
use warnings;

use Exporter 'import';
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CdiHttp;
use CdiWait;

our @EXPORT = qw(load_setup server_comes_back collecting parked counted wait_until under_load);

my ($node, $port, $key, $program, $calls, $preload, $running);

sub compile
{
	my ($output, @arguments) = @_;

	system('cc', '-O2', '-o', $output, @arguments) == 0 or BAIL_OUT("cc cannot make $output");
	return $output;
}

# A running server with a database that collects, and the load generator.
sub load_setup
{
	my ($name, %options) = @_;

	$node = PostgreSQL::Test::Cluster->new($name);
	$port = PostgreSQL::Test::Cluster::get_free_port();
	$program = compile($node->basedir . '/load', map { "$ENV{CDI_ROOT}/test/bench/$_" } 'load.c', 'load_loop.c');
	if ($options{disk_full})
	{
		$ENV{DISK_FULL} = $node->basedir . '/disk_is_full';
		$preload = compile($node->basedir . '/disk_full.so', '-shared', '-fPIC', "$ENV{CDI_ROOT}/test/lib/disk_full.c", '-ldl');
	}
	$calls = $node->basedir . '/calls';
	for my $user (1 .. 50)
	{
		append_to_file($calls, qq(track\t"userId":"u$user","anonymousId":"a$user","event":"Paid","properties":{"price":19.99}}\n));
		append_to_file($calls, qq(page\t"anonymousId":"b$user","name":"Home","context":{"page":{"url":"https://shop.example/?utm_source=x"}}}\n));
		append_to_file($calls, qq(identify\t"userId":"u$user","traits":{"email":"u$user\@example.com"}}\n));
	}
	$node->init;
	# fsync stays on: what is acknowledged must have been written.
	$node->append_conf('postgresql.conf', qq(
shared_preload_libraries = 'cdi'
restart_after_crash = on
fsync = on
max_worker_processes = 16
) . ($options{conf} || ''));
	start_server();
	$node->safe_psql('postgres', 'CREATE DATABASE shop');
	$node->safe_psql('postgres', "ALTER DATABASE shop SET cdi.collector_port = $port");
	$node->safe_psql('postgres', 'ALTER DATABASE shop SET cdi.collector_workers = 2');
	($key) = $node->safe_psql('shop', q(CREATE EXTENSION cdi; SELECT 1 FROM cdi_init(); SELECT cdi_create_source('web'))) =~ /(cdi_\w+)/;
	http_wait($port) or BAIL_OUT('the collector does not answer');
	return $node;
}

sub start_server
{
	my (@options) = @_;

	local $ENV{LD_PRELOAD} = $preload if $preload;
	return $node->start(@options);
}

# Does the collector say that it can store events?
sub collecting
{
	my $answer = eval { http_get($port, '/health') };

	return $answer && $answer->{status} == 200;
}

# Does a request wait for a transaction that holds one of its message ids?
sub parked
{
	my $answer = eval { http_get($port, '/metrics') };

	return $answer && $answer->{body} =~ /^cdi_collector_parked_requests(\{[^}]*\})? [1-9]/m;
}

# What the collectors have counted, all together
sub counted
{
	my ($metric) = @_;
	my $answer = eval { http_get($port, '/metrics') };
	my $sum = 0;

	$sum += $1 while ($answer ? $answer->{body} : '') =~ /^\Q$metric\E[^ ]* (\d+)$/mg;
	return $sum;
}

# Where the postmaster is gone, it is started as soon as its children have let
# go of the shared memory.
sub server_comes_back
{
	return wait_until(sub {
		return 1 if defined ask('SELECT 1');
		return 0 if defined $node->{_pid} && kill 0, $node->{_pid};
		$node->{_pid} = undef;
		return start_server(fail_ok => 1);
	});
}

# It posts until it is told to stop, however long the fault takes.
sub load_start
{
	my ($tag, @options) = @_;
	my $load = { tag => $tag, ids => $node->basedir . "/$tag.ids", out => '', err => '' };

	$load->{run} = IPC::Run::start([ $program, '--connections', 32, '--seconds', 3600, '--give-up', LIMIT, '--tag', $tag,
			'--ids', $load->{ids}, @options, $port, $key, $calls ],
		'<', \undef, '>', \$load->{out}, '2>', \$load->{err});
	$running = $load->{run};
	return $load;
}

# A test that dies leaves no load behind.
END { local $?; $running->kill_kill(grace => 5) if $running }

# End the load; returns what it counted.
sub load_finish
{
	my ($load) = @_;

	$load->{run}->signal('TERM');
	$load->{run}->finish;
	undef $running;
	my $got = eval { decode_json($load->{out}) } or die "load printed $load->{out} $load->{err}";
	return $got;
}

sub ask
{
	return try_sql($node, 'shop', $_[0]);
}

# Until events of the load are stored (again)
sub events_flow
{
	my ($tag) = @_;
	my $count = "SELECT count(*) FROM cdi.events WHERE message_id LIKE '$tag-%'";
	my $first;

	return wait_until(sub {
		my $now = ask($count);
		my $more = defined $now && defined $first && $now > $first;

		$first = $now unless defined $first;
		return $more;
	});
}

# Load, a fault in the middle of it, and the promise: what was acknowledged is
# there exactly once, nothing else is, and everything is accounted for.  The
# load posts again what was not acknowledged.
sub under_load
{
	my ($tag, $what, $fault, %expected) = @_;
	my $started = time;
	my $load = load_start($tag, '--retry', @{ $expected{load} || [] });

	ok(events_flow($tag), "$what: events are stored before");
	$fault->();
	ok(events_flow($tag), "$what: and again afterwards");
	my $got = load_finish($load);
	note "$what: " . encode_json($got);
	is($got->{unanswered}, 0, "$what: everything was answered in the end");
	is($got->{refused}, $expected{refused} ? $got->{statuses}{ $expected{refused} } : 0,
		"$what: nothing was refused for good" . ($expected{refused} ? " but with $expected{refused}" : ''));
	cmp_ok($got->{retries}, '>', 0, "$what: clients had to try again") if $expected{retries};
	for my $status (keys %{ $expected{statuses} || {} })
	{
		cmp_ok($got->{statuses}{$status} || 0, '>', 0, "$what: clients saw $status");
	}

	is($got->{received}, $got->{acknowledged}, "$what: the answers count $got->{acknowledged} acknowledged events");
	is($got->{stored} + $got->{duplicate} + $got->{failed} + $got->{withheld}, $got->{acknowledged},
		"$what: as stored or as a duplicate of an earlier attempt");
	is("$got->{failed} $got->{withheld}", '0 0', "$what: none as failed or withheld");
	$node->safe_psql('shop', "CREATE TABLE acknowledged_$tag (message_id text); COPY acknowledged_$tag FROM '$load->{ids}'");
	is($node->safe_psql('shop', qq(
			SELECT count(*), count(DISTINCT message_id),
				   count(*) FILTER (WHERE message_id IN (SELECT message_id FROM acknowledged_$tag)),
				   (SELECT count(*) FROM acknowledged_$tag)
			FROM cdi.events WHERE message_id LIKE '$tag-%')),
		join('|', ($got->{acknowledged}) x 4), "$what: every acknowledged event is stored once, and nothing else");
	is($node->safe_psql('shop', slurp_file("$ENV{CDI_ROOT}/test/lib/invariant.sql")), '', "$what: every event is accounted for");
	is($node->safe_psql('shop', 'SELECT count(*) - count(DISTINCT position) FROM cdi.events'), '0', "$what: no two events share a position");
	note sprintf('%s: %d s', $what, time - $started);
	return $got;
}

1;
