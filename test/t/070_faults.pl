# Processes that are killed, and restarts, while clients post: docs/faults.md.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use CdiLoad;
use CdiWait;

my $node = load_setup('faults');

# A session with an open transaction that holds message ids which the load is
# going to post.
sub hold_ids
{
	my ($tag, $application) = @_;
	my $session = IPC::Run::start([ 'psql', '-X', '-d', $node->connstr('shop') . " application_name=$application", '-c', qq(
			BEGIN;
			SELECT cdi_ingest((SELECT jsonb_agg(jsonb_build_object('type', 'track', 'event', 'Held', 'userId', 'h', 'messageId', '$tag-' || lpad(n::text, 12, '0')))
							   FROM generate_series(0, 4000, 200) n), 'web');
			SELECT pg_sleep(1000);) ],
		'<', \undef, '>', \my $out, '2>', \my $err);

	$node->poll_query_until('shop', "SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = '$application' AND wait_event = 'PgSleep'")
		or die "no ids are held: $err";
	return ($session, $node->safe_psql('shop', "SELECT pid FROM pg_stat_activity WHERE application_name = '$application'"));
}

under_load('collector', 'kill -9 of a collector', sub {
	crash($node, q(SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'cdi collector%' LIMIT 1)) or die 'no collector was killed';
}, retries => 1);

{
	my ($session, $pid) = hold_ids('cancelled', 'holder');

	under_load('cancelled', 'end of a backend that holds message ids', sub {
		ok(wait_until(\&parked), 'requests wait for it');
		$node->safe_psql('shop', "SELECT pg_terminate_backend($pid)");
		$session->finish;
	});
}

{
	my ($session, $pid) = hold_ids('backend', 'victim');

	under_load('backend', 'kill -9 of a backend that holds message ids', sub {
		crash($node, "SELECT $pid") or die 'it was not killed';
		$session->finish;
	}, retries => 1, load => [ '--events', 5 ]);
}
is($node->safe_psql('shop', q(SELECT count(*) FROM cdi.events WHERE event = 'Held')), '0', 'what their transactions wrote is not there');

under_load('postmaster', 'kill -9 of the postmaster', sub {
	$node->kill9;
	server_comes_back() or die 'the server does not start';
}, retries => 1);

under_load('restart', 'restart of the server', sub { $node->restart }, retries => 1);

under_load('deploy', 'deploy: collectors restarted by a setting, cdi_init()', sub {
	my $old = $node->safe_psql('shop', q(SELECT string_agg(pid::text, ',') FROM pg_stat_activity WHERE backend_type LIKE 'cdi collector%'));

	$node->safe_psql('postgres', q(ALTER DATABASE shop SET cdi.ingest_dedupe_window = '20d'));
	$node->poll_query_until('shop', qq(SELECT count(*) > 0 AND count(*) = count(*) FILTER (WHERE pid NOT IN ($old))
									   FROM pg_stat_activity WHERE backend_type LIKE 'cdi collector%')) or die 'no new collector';
	$node->safe_psql('shop', 'SELECT 1 FROM cdi_init()') for 1 .. 8;
});

$node->stop;
done_testing();
