# Dumps carry all data, restores give every row back, and the restored
# database goes on where the old one was.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('restore');
$node->init;
$node->append_conf('postgresql.conf', "fsync = off\n");
$node->start;

my $events = 1000;

$node->safe_psql('postgres', 'CREATE DATABASE shop');
$node->safe_psql('shop', qq(
	CREATE EXTENSION cdi;
	SELECT cdi_init();
	SELECT cdi_create_source('web');
	SELECT * FROM cdi_ingest((SELECT jsonb_agg(jsonb_build_object('type', 'identify', 'userId', 'u' || i,
		'anonymousId', 'a' || i, 'messageId', 'm' || i, 'traits', jsonb_build_object('n', i))) FROM generate_series(1, $events) i), 'web');
	SELECT * FROM cdi_ingest((SELECT jsonb_agg(jsonb_build_object('type', 'track', 'event', 'Old', 'userId', 'u' || i,
		'messageId', 'h' || i, 'timestamp', '2020-02-03T00:00:00Z')) FROM generate_series(1, $events) i), 'web', history => true);
	SELECT * FROM cdi_ingest('[{"type": "nonsense"}]', 'web');
	SELECT cdi_set_trait_policy('n', 'max');
	SELECT cdi_create_computed_trait('old', 'count', 'Old');
	SELECT cdi_set_identifier_type('email', '{"blocked": ["shared\@shop.example"], "max_per_person": 3, "blocked_patterns": ["^test"]}');
	UPDATE cdi.identifier_types SET priority = 4 WHERE name = 'anonymous_id';
	CREATE FUNCTION public.code(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT upper(\$1)';
	SELECT cdi_set_identifier_type('loyalty', '{"paths": ["traits.card"], "normaliser": "function:public.code"}');
	SELECT cdi_group('u1', 'acme', '{"plan": "pro"}', source => 'web');
	SELECT cdi_identify('u1', '{"card": "a1", "email": "TEST\@shop.example", "householdId": "h1"}', source => 'web');
	SELECT cdi_resolve();
	SELECT cdi_create_virtual_event('Tenth', 'cdi_property_number(traits, ''n'') = 10');
	SELECT cdi_alter_virtual_event('Tenth', 'cdi_property_number(traits, ''n'') = 10 AND type = ''identify''', indexed => true);
	SELECT cdi_advance_watermark();
	SELECT cdi_track('u3', 'Old');	-- counted by the next fold
	SELECT cdi_create_computed_trait('newer', 'count', 'Old');
	SELECT cdi_create_channel('ours');
	SELECT cdi_set_channel_site('ours.example', 'ours'), cdi_set_channel_site('google', 'other');
	SELECT cdi_set_channel_rules('default', '[{"channel": "ours", "when": {"referrer_site": "ours"}}]' || cdi_channel_rules());
	SELECT cdi_set_sessions(gap => '1 hour', midnight => 'Europe/Berlin', cut_events => '{Old}');
	SELECT cdi_create_touch_type('call', 'Call', 'offline', channel => 'ours');
	CREATE ROLE cdi_test_sender;
	SELECT cdi_grant_source('web', 'cdi_test_sender'), cdi_add_write_key('web', 'a-key-of-old');
	SELECT cdi_create_destination('crm', settings => '{"url": "https://crm.example/"}');
	SELECT cdi_create_sync('people', 'crm', 'SELECT person_id FROM cdi.persons', 'person_id', nulls => '{"*": "omit"}');
	SELECT cdi_create_sync('later', 'crm', 'SELECT person_id FROM cdi.persons', 'person_id'), cdi_sync_schedule('later', after => 'people');
	SELECT cdi_sync_run('people');
));

# Every table's content, as one checksum per table.  Built-in specifications
# of destinations come with the extension, not with the dump.
my $tables = q(SELECT string_agg(format('SELECT %L AS name, count(*), md5(string_agg(md5(t::text), %L ORDER BY md5(t::text))) FROM %s t',
	c.oid::regclass, '', c.oid::regclass), ' UNION ALL ' ORDER BY c.oid::regclass::text)
	FROM pg_class c WHERE c.relnamespace = 'cdi'::regnamespace AND c.relkind IN ('r', 'p')
	AND c.relname <> 'destination_specs');

sub content
{
	my ($database) = @_;
	my $query = $node->safe_psql($database, $tables);

	return $node->safe_psql($database, "$query ORDER BY 1");
}

# Position that the next event gets
sub next_position
{
	my ($database) = @_;

	$node->safe_psql($database, q(SELECT cdi_track('u1', 'Next')));
	return $node->safe_psql($database, q(SELECT position FROM cdi.events WHERE event = 'Next' ORDER BY received_at DESC LIMIT 1));
}

my $before = content('shop');
like($before, qr/^cdi\.events\|2003\|/m, 'there is something to restore');
my $position = $node->safe_psql('shop', 'SELECT max(position) FROM cdi.events');

my $dump = $node->basedir . '/shop';
my $host = $node->host;
my $port = $node->port;

command_ok([ 'pg_dump', '-h', $host, '-p', $port, '-f', "$dump.sql", 'shop' ], 'plain dump');
command_ok([ 'pg_dump', '-h', $host, '-p', $port, '-Fc', '-f', "$dump.custom", 'shop' ], 'custom dump');

$node->safe_psql('postgres', 'CREATE DATABASE plain');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', "$dump.sql", 'plain' ],
	'plain dump restores without error');
is(content('plain'), $before, 'plain restore gives every row back');
$node->safe_psql('plain', 'SELECT cdi_init()');
is($node->safe_psql('plain', q(SELECT cdi_channel(NULL, NULL, NULL, 'ours.example', NULL), cdi_channel(NULL, NULL, NULL, 'www.google.com', NULL),
		(SELECT count(DISTINCT version) FROM cdi.channel_rules), (SELECT gap FROM cdi.session_settings), (SELECT count(*) FROM cdi.touch_types))),
	'ours|referral|2|01:00:00|1', 'rules of channels, sessions and touches count as before, and cdi_init() adds none');

$node->safe_psql('postgres', 'CREATE DATABASE custom');
$node->command_ok([ 'pg_restore', '-e', '-j', '4', '-d', 'custom', "$dump.custom" ],
	'parallel custom restore without error');
is(content('custom'), $before, 'custom restore gives every row back');

# The restored database works at once, and still does after cdi_init().
for my $when ('restore', 'cdi_init()')
{
	$node->safe_psql('plain', 'SELECT cdi_init()') if $when eq 'cdi_init()';
	is($node->safe_psql('plain', q(SELECT stored, duplicate FROM cdi_ingest('[{"type": "track", "event": "x", "userId": "u1", "messageId": "m1"}]', 'web'))),
		'0|1', "message ids are remembered after $when");
	cmp_ok(next_position('plain'), '>', $position, "positions go on after $when");
	is($node->safe_psql('plain', q(SELECT bool_and(received = stored + duplicate + failed + withheld) FROM cdi.pipeline_counts)),
		't', "counters add up after $when");
}
my $virtual = q(SELECT (SELECT count(*) FROM cdi.virtual_event_occurrences WHERE virtual_event = 'Tenth' AND version = 2), (SELECT count(*) FROM cdi_virtual_event_rows('Tenth', 1)),
	(SELECT count(*) > 1 AND bool_and(indisvalid) FROM pg_index WHERE indpred IS NOT NULL AND indrelid::regclass::text LIKE 'cdi.events%'));
is($node->safe_psql('plain', $virtual), '1|1|t', 'virtual events are there in all versions, with their indexes');
# What a dump of the configuration alone has not, cdi_init() makes.
$node->safe_psql('plain', 'DROP VIEW cdi.virtual_event_occurrences; DROP INDEX cdi.virtual_event_2; SELECT cdi_init()');
is($node->safe_psql('plain', $virtual), '1|1|t', 'and cdi_init() makes what is missing');
is($node->safe_psql('plain', q(SELECT cdi_alter_virtual_event('Tenth', 'false'))), '3', 'and versions go on');
is($node->safe_psql('plain', q(SELECT cdi_person('user_id', 'u7') = cdi_person('anonymous_id', 'a7'))), 't',
	'people are the same people');
is($node->safe_psql('plain', q(SELECT cdi_person('user_id', 'u7'))), $node->safe_psql('shop', q(SELECT cdi_person('user_id', 'u7'))),
	'with the same ids');
$node->safe_psql('plain', q(SELECT cdi_resolve(); SELECT cdi_identify('u7', '{"n": 5}'); SELECT cdi_track('u3', 'Old'); SELECT cdi_resolve()));
is($node->safe_psql('plain', q(SELECT cdi_person_traits(cdi_person('user_id', 'u3')))), '{"n": 3, "old": 3, "newer": 3}', 'what was not folded is, and once');
is($node->safe_psql('plain', q(SELECT cdi_person_traits(cdi_person('user_id', 'u7')))), '{"n": 7, "old": 1, "newer": 1}', 'policies hold');

# Identifier types are configuration, the built-in ones as they were changed.
is($node->safe_psql('plain', q(SELECT blocked, max_per_person, blocked_patterns FROM cdi.identifier_types WHERE name = 'email')),
	'{shared@shop.example}|3|{^test}', 'a changed built-in identifier type is as it was changed');
is($node->safe_psql('plain', q(SELECT type, value, reason FROM cdi.identity_refusals)), 'email|TEST@shop.example|blocked', 'with its refusals');
is($node->safe_psql('plain', q(SELECT cdi_person('loyalty', 'A1') = cdi_person('user_id', 'u1'), cdi_person('email', 'test1@shop.example') IS NULL)),
	't|t', 'functions and patterns work as before');
is($node->safe_psql('plain', q(SELECT cdi_set_identifier_type('another'); SELECT count(DISTINCT type_id) = count(*), max(type_id) = max(type_id) FILTER (WHERE name = 'another') FROM cdi.identifier_types)),
	"\nt|t", 'a new type gets a number of its own');
is($node->safe_psql('plain', q(SELECT count(*) FROM cdi.account_members JOIN cdi.household_members USING (person_id))), '1', 'accounts and households have their members');

# A data-only sequence reset by hand: cdi_init() moves it past the rows.
$node->safe_psql('custom', q(SELECT setval('cdi.event_position', 1)));
$node->safe_psql('custom', 'SELECT cdi_init()');
cmp_ok(next_position('custom'), '>', $position, 'cdi_init() moves the sequence past restored positions');
$node->safe_psql('custom', q(SELECT cdi_track('u3', 'Old'); SELECT cdi_resolve()));
is($node->safe_psql('custom', q(SELECT cdi_person_traits(cdi_person('user_id', 'u3')))), '{"n": 3, "old": 3, "newer": 3}', 'and folds go on');

# DROP EXTENSION never loses data in silence.
my ($status, $out, $error) = $node->psql('custom', 'DROP EXTENSION cdi');
isnt($status, 0, 'DROP EXTENSION refuses while data exists');
like($error, qr/table cdi\.events depends on/, 'and names the data');

# A schema-only dump restores too.
command_ok([ 'pg_dump', '-h', $host, '-p', $port, '-s', '-f', "$dump.schema", 'shop' ], 'schema-only dump');
$node->safe_psql('postgres', 'CREATE DATABASE empty');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', "$dump.schema", 'empty' ],
	'schema-only dump restores without error');

$node->stop;
done_testing();
