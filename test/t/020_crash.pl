# kill -9 of any process under load: no acknowledged event is lost and none is
# stored twice, and the counters still add up.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use CdiWait;

my $node = PostgreSQL::Test::Cluster->new('crash');
my $collector_port = PostgreSQL::Test::Cluster::get_free_port();

$node->init;
# fsync stays on: this is what the test is about.
$node->append_conf('postgresql.conf', qq(
shared_preload_libraries = 'cdi'
restart_after_crash = on
fsync = on
max_worker_processes = 16
));
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE shop');
$node->safe_psql('postgres', "ALTER DATABASE shop SET cdi.collector_port = $collector_port");
my $key = $node->safe_psql('shop', q(
	CREATE EXTENSION cdi;
	SELECT 1 FROM cdi_init();
	SELECT cdi_create_source('web');
));
($key) = $key =~ /(cdi_\w+)/;

my $file = $node->basedir . '/acknowledged';
my ($in, $out, $err) = ('', '', '');
my $load = IPC::Run::start([ 'python3', "$ENV{CDI_ROOT}/test/lib/post.py", $collector_port, $key, 3600, 16, $file ],
	'<', \$in, '>', \$out, '2>', \$err);

END { local $?; $load->kill_kill(grace => 5) if $load }

# Until the collector stores events (again)
sub events_flow
{
	my $first;

	return wait_until(sub {
		my $now = try_sql($node, 'shop', 'SELECT count(*) FROM cdi.events');
		my $more = defined $now && defined $first && $now > $first;

		$first //= $now;
		return $more;
	});
}

ok(events_flow(), 'events are stored');
# Kept from the events as they come, declared while they do, shown on them
$node->safe_psql('shop', q(
	SELECT cdi_create_computed_trait('calls', 'count', 'Posted');
	SELECT cdi_create_computed_trait('spent', 'sum', 'Posted', '{price}');
	SELECT cdi_alter_source('web', '{"person_traits": ["calls", "spent"]}');
));
for my $victim ('cdi collector', 'cdi keeper', 'cdi launcher', 'client backend', 'checkpointer', 'walwriter', 'cdi push')
{
	my $session;

	if ($victim eq 'client backend')
	{
		$session = IPC::Run::start([ 'psql', '-X', '-d', $node->connstr('shop') . ' application_name=victim', '-c',
				q(SELECT cdi_track('u', 'In a transaction that dies'), pg_sleep(600)) ],
			'>', \my $session_out, '2>', \my $session_err);
	}
	ok(crash($node, $session
			? q(SELECT pid FROM pg_stat_activity WHERE application_name = 'victim' AND wait_event = 'PgSleep')
			: "SELECT pid FROM pg_stat_activity WHERE backend_type = '$victim' LIMIT 1"), "$victim runs and is killed");
	$session->finish if $session;
	ok(events_flow(), "events are stored again after kill -9 of $victim");
}
$node->stop('immediate');
$node->start;
ok(events_flow(), 'events are stored again after an immediate stop');
# Between two crashes the keeper may not have had the time to fold traits.
ok($node->poll_query_until('shop', q(SELECT EXISTS (SELECT FROM cdi.events WHERE (context #>> '{person,traits,calls}')::numeric > 1))),
	'and events show what came before them');

$load->signal('TERM');
$load->finish;
undef $load;
like($out, qr/, 0 unanswered/, "everything was acknowledged in the end: $out") or diag($err);

my $acknowledged = () = slurp_file($file) =~ /\n/g;
$node->safe_psql('shop', 'CREATE TABLE acknowledged (message_id text)');
$node->safe_psql('shop', "COPY acknowledged FROM '$file'");
is($node->safe_psql('shop', q(SELECT count(*) FROM acknowledged a WHERE NOT EXISTS (SELECT FROM cdi.events e WHERE e.message_id = a.message_id))),
	'0', "none of $acknowledged acknowledged events is lost");
is($node->safe_psql('shop', q(SELECT count(*) FROM (SELECT FROM cdi.events GROUP BY source_id, message_id HAVING count(*) > 1) twice)),
	'0', 'none is stored twice');
is($node->safe_psql('shop', q(SELECT count(*) FROM cdi.events WHERE event LIKE 'In a transaction%')), '0', 'what did not commit is not there');
is($node->safe_psql('shop', q(SELECT bool_and(received = stored + duplicate + failed + withheld) FROM cdi.pipeline_counts)), 't', 'the counters add up');
is($node->safe_psql('shop', q(SELECT sum(stored) = (SELECT count(*) FROM cdi.events) FROM cdi.pipeline_counts)), 't', 'stored is what the table holds');
ok($node->poll_query_until('shop', q(SELECT cdi_watermark() >= (SELECT max(position) FROM cdi.events))), 'the watermark moves on');
ok($node->poll_query_until('shop', q(SELECT count(*) = 0 FROM cdi.identity_links WHERE position > (SELECT max(watermark) FROM cdi.identity_runs)
	AND position NOT IN (SELECT position FROM cdi.identity_ahead))), 'and identities follow');
ok($node->poll_query_until('shop', q(SELECT count(*) = 0 FROM cdi.computed_trait_deltas)), 'and traits');
is($node->safe_psql('shop', q(SELECT cdi_resolve())), '0', 'links were folded by the worker');
is($node->safe_psql('shop', q(SELECT count(*) FROM cdi.persons)), '50', 'into the people there are');
is($node->safe_psql('shop', q(
	SELECT count(*) FROM (SELECT cdi_person_of(subject) AS person_id, count(*), sum((properties ->> 'price')::numeric)
		FROM cdi.events WHERE event = 'Posted' GROUP BY 1) e
	JOIN cdi.person_computed_traits c ON c.person_id = e.person_id AND c.trait = 'calls' AND c.value = to_jsonb(e.count)
	JOIN cdi.person_computed_traits s ON s.person_id = e.person_id AND s.trait = 'spent' AND s.value = to_jsonb(e.sum))),
	'50', 'every event counts once for each computed trait');
is($node->safe_psql('shop', q(SELECT count(*) FROM cdi.computed_trait_deltas)), '0', 'none is left to fold');

$node->stop;
done_testing();
