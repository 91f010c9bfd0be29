# Generations of message keys: their rotation by the keeper, and that filters
# over the older ones spare look-ups and never cost exactness.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('dedupe');
$node->init;
# So little memory that a filter over a million keys is made in passes
$node->append_conf('postgresql.conf', q(
fsync = off
shared_preload_libraries = 'cdi'
max_worker_processes = 32
autovacuum = off
maintenance_work_mem = '1MB'
));
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE shop');
$node->safe_psql('shop', 'CREATE EXTENSION cdi; SELECT cdi_init()');

my $keys = 5000;
my $window = 30;

sub ingest
{
	my ($database, $prefix) = @_;

	return $node->safe_psql($database, qq(SELECT * FROM cdi_ingest((SELECT jsonb_agg(jsonb_build_object(
		'type', 'track', 'event', 'x', 'userId', 'u', 'messageId', '$prefix' || i)) FROM generate_series(1, $keys) i))));
}

sub stored
{
	my ($database, $prefix, $name) = @_;
	is(ingest($database, $prefix), "$keys|0|0|0", $name);
}

sub duplicates
{
	my ($database, $prefix, $name) = @_;
	is(ingest($database, $prefix), "0|$keys|0|0", $name);
}

# A new keeper does at once what is due.
sub restart_keeper
{
	$window++;
	$node->safe_psql('postgres', "ALTER DATABASE shop SET cdi.ingest_dedupe_window = '${window}d'");
}

sub current
{
	return $node->safe_psql('shop', 'SELECT slot FROM cdi.message_generations WHERE current');
}

my $older = 'message_generations WHERE NOT current AND pg_relation_size(format($$cdi.message_keys_%s$$, slot)) > 0';

sub filtered
{
	my ($name) = @_;
	ok($node->poll_query_until('shop', "SELECT bool_and(filter_pages > 0 AND key_pages = pg_relation_size(format('cdi.message_keys_%s', slot)) / 8192
		AND filter_pages <= pg_relation_size(format('cdi.message_filter_%s', slot)) / 8192) FROM cdi.$older"), $name);
}

# The current generation has become too old.
sub age
{
	$node->safe_psql('shop', q(UPDATE cdi.message_generations SET since = now() - interval '20 days' WHERE current));
	restart_keeper();
}

sub rotated_to
{
	my ($slot, $name) = @_;
	ok($node->poll_query_until('shop', "SELECT current FROM cdi.message_generations WHERE slot = $slot"), $name);
}

# Look-ups in the tables of the older generations.  A session counts its own as
# it ends, which is after psql has.
sub scans
{
	my ($database) = @_;
	$node->poll_query_until($database, q(SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()));
	return $node->safe_psql($database, q(SELECT coalesce(sum(idx_scan), 0) FROM pg_stat_user_indexes JOIN cdi.message_generations
		ON relname = 'message_keys_' || slot WHERE NOT current));
}

# One of 150 keys per generation is expected to be looked up.
sub few_scans
{
	my ($database, $prefix, $name) = @_;
	my $before = scans($database);

	stored($database, $prefix, "new keys: $name");
	cmp_ok(scans($database) - $before, '<', $keys * 3 / 50, "are hardly looked up in older generations: $name");
}

for my $slot (0 .. 2)
{
	stored('shop', "generation $slot ", "keys of generation $slot");
	age();
	rotated_to($slot + 1, "generation $slot ends");
	filtered('older generations have filters');
}
few_scans('shop', 'generation 3 ', 'three older generations');
duplicates('shop', "generation $_ ", "keys of generation $_ are known") for 0 .. 3;

my (undef, undef, $stderr) = $node->psql('shop', 'BEGIN; UPDATE cdi.message_generations SET current = false WHERE current; UPDATE cdi.message_generations SET current = true WHERE slot = 2');
like($stderr, qr/violates check constraint "message_generations_filter"/, 'a generation does not become the current one with a filter');

# A transaction that began in a generation keeps it the current one.
my $holder = $node->background_psql('shop');
$holder->query_safe(q(BEGIN; SELECT cdi_track('u1', 'Late', message_id => 'late')));
age();
$node->poll_query_until('shop', q(SELECT state = 'running' FROM cdi.workers WHERE kind = 'keeper'));
sleep 1;
is(current(), 3, 'no rotation while a transaction writes keys');
$holder->query_safe('COMMIT');
$holder->quit;
rotated_to(0, 'it comes afterwards');
filtered('and the generation gets its filter');
is($node->safe_psql('shop', q(SELECT * FROM cdi_ingest('{"type": "track", "event": "x", "userId": "u1", "messageId": "late"}'))),
	'0|1|0|0', 'which knows what came last');
is($node->safe_psql('shop', 'SELECT filter_pages IS NULL AND key_pages IS NULL FROM cdi.message_generations WHERE current'), 't', 'the current generation has none');
stored('shop', 'generation 0 ', 'what the oldest generation knew is forgotten');
duplicates('shop', "generation $_ ", "keys of generation $_ are known") for 0 .. 3;

$node->stop('immediate');
$node->start;
few_scans('shop', 'after a crash ', 'after a crash');
duplicates('shop', "generation $_ ", "after a crash, generation $_") for 0 .. 3;

# A dump carries the filters.
my $dump = $node->basedir . '/shop';
$node->command_ok([ 'pg_dump', '-f', $dump, '-d', $node->connstr('shop') ], 'dump');
$node->safe_psql('postgres', 'CREATE DATABASE copy');
$node->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', $dump, '-d', $node->connstr('copy') ], 'restore');
# COPY of PostgreSQL 16 and later may leave empty pages at the end of a table of
# keys: to its filter that is another table, until the keeper makes it anew.
if ($node->pg_version < 16 || $node->safe_psql('copy', "SELECT bool_and(key_pages = pg_relation_size(format('cdi.message_keys_%s', slot)) / 8192) FROM cdi.$older") eq 't')
{
	few_scans('copy', 'in a copy ', 'in a restored copy');
}
else
{
	stored('copy', 'in a copy ', 'new keys: in a restored copy');
}
duplicates('copy', "generation $_ ", "in a restored copy, generation $_") for 0 .. 3;

# Filters that are not what was written
$node->safe_psql('copy', 'DELETE FROM cdi.message_filter_1');
$node->safe_psql('copy', q(UPDATE cdi.message_filter_2 SET bits = '\x00'));
$node->safe_psql('copy', 'VACUUM FULL cdi.message_filter_2');
$node->safe_psql('copy', 'TRUNCATE cdi.message_filter_3');
duplicates('copy', "generation $_ ", "with a broken filter, generation $_") for 1 .. 3;

# One that was lost is made anew.
$node->safe_psql('shop', 'TRUNCATE cdi.message_filter_3');
duplicates('shop', 'generation 3 ', 'without a filter');
restart_keeper();
filtered('it is made anew');
few_scans('shop', 'again ', 'with a new filter');

# Not of a table that somebody is still filling, as a restore does
my $filler = $node->background_psql('shop');
$filler->query_safe('BEGIN; INSERT INTO cdi.message_keys_3 VALUES (gen_random_uuid())');
$node->safe_psql('shop', 'TRUNCATE cdi.message_filter_3');
restart_keeper();
$node->poll_query_until('shop', q(SELECT state = 'running' FROM cdi.workers WHERE kind = 'keeper'));
sleep 1;
is($node->safe_psql('shop', q(SELECT pg_relation_size('cdi.message_filter_3'))), '0', 'no filter while keys are loaded');
$filler->query_safe('COMMIT');
$filler->quit;
filtered('it is made afterwards');

# Keys that came in behind its back, here from the current generation
is(current(), 0, 'generation 0 is the current one');
stored('shop', 'moved ', 'keys to be moved');
$node->safe_psql('shop', q(WITH moved AS (DELETE FROM cdi.message_keys_0 RETURNING key)
	INSERT INTO cdi.message_keys_2 SELECT key FROM moved UNION ALL SELECT gen_random_uuid() FROM generate_series(1, 800000)));
duplicates('shop', 'moved ', 'a filter of other keys is not used');
restart_keeper();
filtered('the keeper makes one of these');
is($node->safe_psql('shop', 'SELECT count(*) = max(page) + 1 AND count(*) > 129 FROM cdi.message_filter_2'), 't', 'with more pages than memory has room for');
few_scans('shop', 'large ', 'with a large filter');
duplicates('shop', "$_ ", "with a large filter: $_") for 'moved', 'generation 0', 'generation 2';
$node->safe_psql('shop', 'WITH pages AS (DELETE FROM cdi.message_filter_2 RETURNING *) INSERT INTO cdi.message_filter_2 SELECT * FROM pages ORDER BY page DESC');
$node->safe_psql('shop', 'VACUUM FULL cdi.message_filter_2');
duplicates('shop', "$_ ", "with its pages in another order: $_") for 'moved', 'generation 2';

$node->stop;
done_testing();
