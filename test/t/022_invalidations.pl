# Tables come and go so fast that other sessions cannot follow: each then drops
# all that it knows of tables, at whatever moment it asks next.  Nothing that
# collects, stores, folds or sends may notice.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use CdiHttp;
use CdiPush;

# Events of a batch, and people
use constant { BATCH => 300, PEOPLE => 40, SECONDS => 8 };

my $collector_port = PostgreSQL::Test::Cluster::get_free_port();
my ($node, $receiver, $port, $requests_file) = push_node('storm', 'receiver.py', 'autovacuum_naptime = 1');

sub sql
{
	return $node->safe_psql('shop', $_[0]);
}

# psql in the background, and what it has said
sub session
{
	my ($query) = @_;
	my %session = (out => '', err => '');

	$session{run} = IPC::Run::start([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('shop'), '-c', $query ],
		'>', \$session{out}, '2>', \$session{err});
	return \%session;
}

$node->safe_psql('postgres', "ALTER DATABASE shop SET cdi.collector_port = $collector_port");
$node->restart;
my ($key) = sql(q(SELECT cdi_create_source('web'))) =~ /(cdi_\w+)/;
# Four generations of message keys, each of which is opened by every batch
sql("INSERT INTO cdi.message_keys_$_ SELECT gen_random_uuid() FROM generate_series(1, 1000)") for 0 .. 3;
sql(qq(
	SELECT cdi_create_computed_trait('calls', 'count', 'Posted');
	SELECT cdi_create_computed_trait('spent', 'sum', 'Posted', '{price}');
	SELECT cdi_alter_source('web', '{"person_traits": ["calls", "spent"]}');
	SELECT cdi_create_destination('all', settings => '{"url": "http://127.0.0.1:$port/ok/all", "batch_size": 500}');
	SELECT cdi_create_event_stream('all', 'all', rules => '{}');
));
ok(http_wait($collector_port), 'the collector answers');

# 400 tables made and dropped are more messages than the shared queue holds.
my $storm = session(q(
DO $$
DECLARE
	ending timestamptz := clock_timestamp() + interval ') . SECONDS . q( seconds';
	rounds integer := 0;
BEGIN
	WHILE clock_timestamp() < ending LOOP
		FOR i IN 1 .. 400 LOOP
			EXECUTE format('CREATE TABLE storm_%s (a integer)', i);
		END LOOP;
		COMMIT;
		FOR i IN 1 .. 400 LOOP
			EXECUTE format('DROP TABLE storm_%s', i);
		END LOOP;
		COMMIT;
		rounds := rounds + 1;
	END LOOP;
	CREATE TABLE storm_rounds AS SELECT rounds;
END $$));

# Batches, each sent twice, while there is a storm
my @writers = map { session(sprintf(q(
DO $$
DECLARE
	ending timestamptz := clock_timestamp() + interval '%4$s seconds';
	n integer := 0;
	result record;
BEGIN
	WHILE clock_timestamp() < ending LOOP
		FOR again IN 0 .. 1 LOOP
			SELECT * INTO result FROM cdi_ingest((SELECT jsonb_agg(jsonb_build_object('type', 'track', 'event', 'Posted', 'userId', 'u' || i %% %2$d,
				'anonymousId', 'a' || i %% %2$d, 'messageId', format('%3$s-%%s-%%s', n, i), 'properties', '{"price": 19.99}'::jsonb)) FROM generate_series(1, %1$d) i));
			IF result.stored <> %1$d * (1 - again) OR result.duplicate <> %1$d * again THEN
				RAISE 'batch %% for the %%. time: %%', n, again + 1, result;
			END IF;
			COMMIT;
		END LOOP;
		n := n + 1;
	END LOOP;
END $$), BATCH, PEOPLE, $_, SECONDS)) } qw(x y);
my $file = $node->basedir . '/acknowledged';
my $load = IPC::Run::start([ 'python3', "$ENV{CDI_ROOT}/test/lib/post.py", $collector_port, $key, SECONDS, 4, $file ],
	'>', \my $load_out, '2>', \my $load_err);

$_->{run}->finish for $storm, @writers;
$load->finish;
is($_->{err}, '', 'a session has done what it does') for $storm, @writers;
cmp_ok(sql('SELECT rounds FROM storm_rounds'), '>', 0, 'there was a storm') and note(sql('TABLE storm_rounds'), ' rounds');
like($load_out, qr/, 0 unanswered, answers \{"200": \d+\}/, "the collector has answered: $load_out") or diag($load_err);
unlike(slurp_file($node->logfile), qr/terminated by signal|PANIC|TRAP/, 'no process has crashed');

is(sql(slurp_file("$ENV{CDI_ROOT}/test/lib/invariant.sql")), '', 'every event has ended in one place');
is(sql(q(SELECT count(*) FROM cdi.events e JOIN cdi.sources s USING (source_id) WHERE s.name = 'web')),
	scalar(() = slurp_file($file) =~ /\n/g), 'what the collector has acknowledged is stored');
ok($node->poll_query_until('shop', q(SELECT cdi_watermark() >= (SELECT max(position) FROM cdi.events))), 'the watermark moves on');
sql('SELECT cdi_resolve()');
is(sql('SELECT count(*) = count(DISTINCT cdi_person_of(subject)) FROM (SELECT DISTINCT user_id, cdi_person_of(subject) AS subject FROM cdi.events) u'),
	't', 'who has one user id is one person');
ok($node->poll_query_until('shop', q(
	SELECT count(*) = 0 FROM (SELECT cdi_person_of(subject) AS person_id, count(*) FROM cdi.events GROUP BY 1) e
	LEFT JOIN cdi.person_computed_traits c ON c.person_id = e.person_id AND c.trait = 'calls' AND c.value = to_jsonb(e.count)
	WHERE c.trait IS NULL)), 'every event counts once for the computed trait');
ok($node->poll_query_until('shop', q(SELECT position >= (SELECT max(position) FROM cdi.events) FROM cdi.stat_event_streams WHERE stream = 'all')),
	'the stream has caught up');
my %sent;
# bodies are JSON in a string of JSON; to parse them all would take a minute
$sent{$_}++ for slurp_file($requests_file) =~ /\\"messageId\\": ?\\"([^"\\]+)\\"/g;
is(scalar(keys %sent), sql('SELECT count(*) FROM cdi.events'), 'and has sent every event');
is(scalar(grep { $_ > 1 } values %sent), 0, 'once');

$node->stop;
$receiver->kill_kill;
done_testing();
