# From 0.1.0 to this version while events are posted, and a dump of 0.1.0
# restored into this version.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('upgrade');
$node->init;
$node->append_conf('postgresql.conf', "fsync = off\n");
$node->start;

# Both installations that are compared have partitions of today, and of no other day.
my $left_today = $node->safe_psql('postgres', q(SELECT ceil(extract(epoch FROM interval '1 day' - (now() AT TIME ZONE 'UTC')::time))));
sleep $left_today if $left_today < 180;

my $page = q('{"page": {"url": "https://shop.example/a"}}');

sub host_of
{
	my ($database, $event) = @_;
	return $node->safe_psql($database, "SELECT count(*), max(to_jsonb(e)->>'page_host') FROM cdi.events e WHERE event = '$event'");
}

$node->safe_psql('postgres', 'CREATE DATABASE old');
$node->safe_psql('old', q(CREATE EXTENSION cdi VERSION '0.1.0'; SELECT cdi_init();));
is($node->safe_psql('old', 'SELECT version FROM cdi.storage'), '1', 'old storage');
$node->safe_psql('old', "SELECT cdi_track('u', 'with the old version', context => $page)");
is(host_of('old', 'with the old version'), '1|', 'this library stores into the old version');
$node->safe_psql('old', q(UPDATE cdi.identifier_types SET blocked = '{demo}' WHERE name = 'user_id';
	INSERT INTO cdi.identifier_types (name, priority) VALUES ('loyalty', 7)));
$node->safe_psql('old', q(SELECT cdi_identify('null', '{"email": "A@B.example"}', anonymous_id => 'demo-phone', context => '{"device": {"id": "d", "type": "ios"}}')));
is($node->safe_psql('old', q(SELECT types, "values" FROM cdi.identity_links WHERE 'demo-phone' = ANY ("values"))),
	'{user_id,email,anonymous_id}|{"null",a@b.example,demo-phone}', 'which finds identifiers as the old version did, by the rows as they were changed');
command_ok([ 'pg_dump', '-h', $node->host, '-p', $node->port, '-f', $node->basedir . '/old.sql', 'old' ], 'dump of the old version');

# Somebody who posts all the time, in a session that never reconnects.
my $poster_script = $node->basedir . '/poster.sql';
append_to_file($poster_script,
	"SELECT cdi_track('u' || :client_id, 'posted', jsonb_build_object('n', :n), context => $page) \\gset\n");
PostgreSQL::Test::Utils::append_to_file($node->basedir . '/poster', "\\set n random(1, 1000)\n" . slurp_file($poster_script));
my ($in, $out, $err) = ('', '', '');
my $posted_so_far = q(SELECT count(*) FROM cdi.events WHERE event = 'posted');
sub until_more_is_posted
{
	my ($what) = @_;
	my $before = $node->safe_psql('old', $posted_so_far);
	ok($node->poll_query_until('old', "SELECT ($posted_so_far) > $before + 20"), $what);
}
my $poster = IPC::Run::start([ 'pgbench', '-n', '-c', '4', '-T', '800', '-h', $node->host, '-p', $node->port,
		'-f', $node->basedir . '/poster', 'old' ], '<', \$in, '>', \$out, '2>', \$err);

until_more_is_posted('events are posted');
my ($status, $stdout, $stderr) = $node->psql('old', 'ALTER EXTENSION cdi UPDATE');
is($status, 0, 'ALTER EXTENSION UPDATE while events are posted');
like($stderr, qr{WARNING:.*run SELECT \S*cdi_init\(\)}, 'its warning asks for cdi_init()');
until_more_is_posted('and by the new version into the old storage');
$node->safe_psql('old', "SELECT cdi_track('u', 'between', context => $page)");
$node->safe_psql('old', q(SELECT cdi_group('demo', 'acme', '{"plan": "pro"}', anonymous_id => 'between-phone')));
is($node->safe_psql('old', q(SELECT count(*) FROM cdi.identity_links WHERE 'between-phone' = ANY ("values"))), '0', 'a value that was blocked stays so');
is(host_of('old', 'between'), '1|', 'the new version stores into the old storage');
$node->safe_psql('old', 'SELECT cdi_init()');
is($node->safe_psql('old', 'SELECT version = cdi._storage_version() FROM cdi.storage'), 't', 'cdi_init() brings the storage up to date');
$node->safe_psql('old', "SELECT cdi_track('u', 'after', context => $page)");
is(host_of('old', 'after'), '1|shop.example', 'and the new column is filled');
is($node->safe_psql('old', q(SELECT name, priority, paths, blocked, normaliser, builtin FROM cdi.identifier_types WHERE name IN ('user_id', 'loyalty', 'email') ORDER BY priority)),
	"user_id|1|{userId}|{demo}|trim|f\nemail|2|{traits.email,context.traits.email}|{\"null\",anonymous,undefined,none,unknown}|email|f\nloyalty|7|{}|{}|trim|f",
	'identifier types that were there stay as they were changed, and are found where they were');
is($node->safe_psql('old', q(SELECT count(*) = (SELECT count(*) FROM cdi._builtin_identifier_types()) + 1 FROM cdi.identifier_types)), 't', 'those that are new are added');
$node->safe_psql('old', q(SELECT cdi_group('u', 'acme', '{"plan": "pro"}'); SELECT cdi_track('demo', 'refused', anonymous_id => 'r')));
is($node->safe_psql('old', q(SELECT cdi_resolve() > 0; SELECT traits FROM cdi.accounts; SELECT type, value, reason FROM cdi.identity_refusals)),
	"t\n{\"plan\": \"pro\"}\nuser_id|demo|blocked", 'accounts are linked and refusals logged from then on');

until_more_is_posted('and into the new one');
# as if its time were over
$poster->signal('ALRM');
$poster->finish;
my ($posted) = $out =~ /number of transactions actually processed: (\d+)/;
my ($lost) = $out =~ /number of failed transactions: (\d+)/;
is($lost, '0', 'no post failed') or diag($err);
unlike($err, qr/ERROR/, 'no post saw an error');
cmp_ok($posted, '>', 50, "events were posted throughout ($posted)");
is($node->safe_psql('old', q(SELECT count(*) FROM cdi.events WHERE event = 'posted')), $posted, 'every one of them is stored');
is($node->safe_psql('old', q(SELECT count(*) = (SELECT sum(stored) FROM cdi.pipeline_counts) FROM cdi.events)), 't', 'and counted');

# Upgraded and fresh are the same.
$node->safe_psql('postgres', 'CREATE DATABASE fresh');
$node->safe_psql('fresh', 'CREATE EXTENSION cdi; SELECT cdi_init()');
my %schema;
for my $database ('old', 'fresh')
{
	my $file = $node->basedir . "/$database.schema";

	$node->command_ok([ 'pg_dump', '-s', '-f', $file, $database ], "schema of $database");
	$schema{$database} = slurp_file($file);
	$schema{$database} =~ s/^\\(un)?restrict .*$//mg;
}
is($schema{old}, $schema{fresh}, 'an upgraded installation has the schema of a fresh one');
my $members = q(SELECT string_agg(pg_describe_object(classid, objid, 0), E'\n' ORDER BY pg_describe_object(classid, objid, 0))
	FROM pg_depend WHERE refclassid = 'pg_extension'::regclass AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'cdi') AND deptype = 'e');
is($node->safe_psql('old', $members), $node->safe_psql('fresh', $members), 'and the same members');
my $bodies = q(SELECT md5(string_agg(pg_get_functiondef(objid) || coalesce(obj_description(objid, 'pg_proc'), '') || coalesce((SELECT proacl::text FROM pg_proc WHERE oid = objid), ''), '' ORDER BY objid::regprocedure::text))
	FROM pg_depend WHERE refclassid = 'pg_extension'::regclass AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'cdi') AND deptype = 'e' AND classid = 'pg_proc'::regclass
		AND (SELECT prokind FROM pg_proc WHERE oid = objid) <> 'a');
is($node->safe_psql('old', $bodies), $node->safe_psql('fresh', $bodies), 'with the same definitions, comments and privileges');

# An old dump into the new version.
$node->safe_psql('postgres', 'CREATE DATABASE restored');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $node->basedir . '/old.sql', 'restored' ],
	'a dump of the old version restores into this one');
$node->safe_psql('restored', 'SELECT cdi_init()');
$node->safe_psql('restored', "SELECT cdi_track('u', 'after', context => $page)");
is(host_of('restored', 'after'), '1|shop.example', 'and cdi_init() brings it up to date');
is(host_of('restored', 'with the old version'), '1|', 'with its old rows');

$node->stop;
done_testing();
