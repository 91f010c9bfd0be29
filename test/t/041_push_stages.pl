# Rows out to a vendor who wants an access token, several requests per row,
# jobs that are asked about, and no more than so many requests in a while.
use strict;
use warnings;

use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use FindBin;
use lib $FindBin::RealBin;
use CdiPush;

my $json = JSON::PP->new->utf8;
my $port = PostgreSQL::Test::Cluster::get_free_port();
my $node = PostgreSQL::Test::Cluster->new('stages');

$node->init;
my $requests_file = $node->basedir . '/requests.jsonl';
my $secrets = $node->basedir . '/secrets';
mkdir $secrets;
append_to_file("$secrets/client", "client-s3cret\n");
append_to_file("$secrets/key", '0123456789abcdef0123456789abcdef');
chmod 0400, "$secrets/key";
$node->append_conf('postgresql.conf', qq(
shared_preload_libraries = 'cdi'
fsync = off
max_worker_processes = 32
restart_after_crash = on
cdi.activate_retry_delay = '20ms'
cdi.activate_retry_max_delay = '200ms'
cdi.secret_directory = '$secrets'
cdi.secret_key_file = '$secrets/key'
cdi.egress_allow_private = on
log_statement = all
));
$node->start;

append_to_file($requests_file, '');
my $vendor = start_receiver('vendor.py', $port, $requests_file);

sub requests
{
	my ($method, $path) = @_;
	return grep { $_->{method} eq $method && $_->{path} =~ $path } received($requests_file);
}

sub sql
{
	return $node->safe_psql('shop', $_[0]);
}

sub curl
{
	my ($path, $body) = @_;
	my ($text, $stderr) = run_command([ 'curl', '-s', defined $body ? ('-d', $body) : (), "http://127.0.0.1:$port/$path" ]);
	return $text;
}

sub state
{
	return $json->decode(curl('state'));
}

sub secret
{
	my ($name, $value) = @_;
	$node->psql('shop', "COPY cdi.secret_entry FROM STDIN;\n$name=$value\n\\.\n");
}

# Until the sync has no row on its way, and so many acknowledged
sub acknowledged
{
	my ($name, $n, $what) = @_;
	ok($node->poll_query_until('shop', qq(
		SELECT count(*) = $n FROM cdi.sync_rows r JOIN cdi.syncs s USING (sync_id) WHERE s.name = '$name')), $what)
		or diag(sql(qq(SELECT d.class, d.status, d.error, d.rows, d.attempt FROM cdi.deliveries d JOIN cdi.syncs s USING (sync_id) WHERE s.name = '$name' ORDER BY sent_at DESC LIMIT 10)));
}

# The server starts anew after that.
sub kill_worker
{
	ok(kill_push_worker($node), 'the worker was killed and comes back');
}

sub sync
{
	my ($name, $action, $model) = @_;
	sql("SELECT cdi_create_sync('$name', '$name', \$\$$model\$\$, 'id', action => '$action')");
	sql("SELECT cdi_sync_run('$name')");
}

$node->safe_psql('postgres', 'CREATE DATABASE shop');
sql('CREATE EXTENSION cdi');
sql('SELECT cdi_init()');
sql('SELECT cdi_arm()');
sql(q(CREATE TABLE customers (id integer, email text, name text);
	INSERT INTO customers SELECT n, 'c' || n || '@example.com', 'C' FROM generate_series(1, 40) n));
my $contact = '"map": {"email": {"@path": "$.email"}, "name": {"@path": "$.name"}}, "require": ["email"]';
my $spec = qq(
{"\$schema": "cdi-dest-1", "name": "vendor", "version": "1",
 "settings": {"type": "object", "required": ["base"], "properties": {"base": {"type": "string"}, "refresh_token": {"type": "string", "secret": true}, "client_secret": {"type": "string", "secret": true}}},
 "auth": {"type": "oauth2", "when": {"exists": "secret.refresh_token"}, "grant": "refresh_token", "token_url": "{{settings.base}}/token", "client_id": "us", "client_secret": "{{secret.client_secret}}", "refresh_token": "{{secret.refresh_token}}"},
 "actions": {
  "plain": {"ops": ["insert", "update"], $contact, "batch": {"max_items": 10}, "request": {"method": "POST", "url": "{{settings.base}}/anything", "body": {"format": "ndjson"}}},
  "contact": {"ops": ["insert", "update"], $contact,
    "steps": [{"name": "find", "request": {"method": "GET", "url": "{{settings.base}}/contacts?email={{mapped.email|urlencode}}"},
               "response": {"rules": [{"status": [404], "class": "ok"}]}, "extract": {"id": {"\@path": "\$.data[0].id"}}}],
    "request": {"method": {"\@if": {"condition": {"exists": "step.find.id"}, "then": "PUT", "else": "POST"}},
                "url": {"\@if": {"condition": {"exists": "step.find.id"}, "then": "{{settings.base}}/contacts/{{step.find.id}}", "else": "{{settings.base}}/contacts"}},
                "body": {"format": "json", "template": {"\@item": true}}}},
  "job": {"ops": ["insert", "update"], $contact, "batch": {"max_items": 100}, "request": {"method": "POST", "url": "{{settings.base}}/jobs", "body": {"format": "ndjson"}}, "extract": {"id": {"\@path": "\$.id"}},
    "then": [{"name": "wait", "request": {"method": "GET", "url": "{{settings.base}}/jobs/{{step.main.id}}"}, "poll": {"every": "100ms", "until": {"eq": ["\$.state", "done"]}}},
             {"name": "errors", "request": {"method": "GET", "url": "{{settings.base}}/jobs/{{step.main.id}}/errors"},
              "response": {"format": "csv", "rules": [{"status": [200], "class": "ok", "rows": {"each": "\$", "match": {"value": "\@.email", "to": "mapped.email"}, "message": "\@.error"}}]}}]}}});
sql("SELECT cdi_install_destination_spec(\$json\$$spec\$json\$::jsonb)");
my $slow = $json->decode($spec);
$slow->{name} = 'rated';
$slow->{limits} = { rate => { requests => 20, per => '4s', burst => 2 }, concurrency => 8 };
$slow->{actions} = { plain => $slow->{actions}{plain} };
$slow->{actions}{plain}{batch}{max_items} = 1;
sql("SELECT cdi_install_destination_spec(\$json\$" . $json->encode($slow) . "\$json\$::jsonb)");

sub destination
{
	my ($name, $type, $more) = @_;
	sql(sprintf(q{SELECT cdi_create_destination('%s', '%s', '%s')}, $name, $type,
			$json->encode({ base => "http://127.0.0.1:$port", %{ $more // {} } })));
}

# ---- a rate ----

destination('rated', 'rated', {});
my $start = time;
sync('rated', 'plain', 'SELECT * FROM customers WHERE id <= 26');
acknowledged('rated', 26, 'all rows go at the rate');
my @times = sort { $a <=> $b } map { $_->{time} } requests('POST', qr{^/anything});
is(scalar(@times), 26, 'each once');
# However late a request is at the receiver, none is there before it was due.
is(scalar(grep { $times[$_] - $start < ($_ - 1) / 5 } 0 .. $#times), 0, 'not faster than 20 in four seconds, but for a burst of 2');
# By the sender's clock: who receives may be late, and then twice in a row.
my @sent = split /\n/, sql(q(SELECT extract(epoch FROM sent_at) FROM cdi.deliveries d JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'rated' ORDER BY 1));
is(scalar(grep { $sent[ $_ + 22 ] - $sent[$_] < 4 } 0 .. $#sent - 22), 0, 'and in no four seconds more than 22');

# ---- a request that waits for rows ----

sub sent_rows
{
	return join ',', map { scalar(() = $_->{body} =~ /\n/g) } grep { $_->{headers}{'X-Waits'} } requests('POST', qr{^/anything});
}

$slow->{name} = 'waits';
delete $slow->{limits};
$slow->{actions}{plain}{batch} = { max_items => 10, max_wait => '4s' };
$slow->{actions}{plain}{request}{headers} = { 'X-Waits' => 'yes' };
sql("SELECT cdi_install_destination_spec(\$json\$" . $json->encode($slow) . "\$json\$::jsonb)");
destination('waits', 'waits', {});
sync('waits', 'plain', 'SELECT * FROM customers WHERE id <= 23');
acknowledged('waits', 20, 'full requests go at once');
is(sent_rows(), '10,10', 'and one with room left waits');
sql(q(SELECT cdi_alter_sync('waits', model => 'SELECT * FROM customers WHERE id <= 30')));
sql(q(SELECT cdi_sync_run('waits')));
acknowledged('waits', 30, 'until it is full');
is(sent_rows(), '10,10,10', 'with the rows of both runs');
$start = time;
sql(q(SELECT cdi_alter_sync('waits', model => 'SELECT * FROM customers WHERE id <= 32')));
sql(q(SELECT cdi_sync_run('waits')));
acknowledged('waits', 32, 'or for so long');
cmp_ok(time - $start, '>=', 4, 'and no shorter');
is(sent_rows(), '10,10,10,2', 'with what there is by then');

# Nothing else of a lane waits for it: another group that is full, or another
# action; and rows that an answer sets free may fill it.
$slow->{name} = 'grouped';
$slow->{actions}{plain}{batch} = { max_items => 10, max_wait => '1h' };
$slow->{actions}{plain}{group_by} = '{{$.name}}';
$slow->{actions}{plain}{request}{headers} = { 'X-Grouped' => '{{batch.group}}' };
sql("SELECT cdi_install_destination_spec(\$json\$" . $json->encode($slow) . "\$json\$::jsonb)");
destination('grouped', 'grouped', {});
sync('grouped', 'plain', q(SELECT id, email, CASE WHEN id <= 3 THEN 'A' WHEN id <= 23 THEN 'B' ELSE 'D' END AS name FROM customers WHERE id <= 25));
acknowledged('grouped', 20, 'a full request does not wait for another group');
is(join(',', map { "$_->{headers}{'X-Grouped'} " . scalar(() = $_->{body} =~ /\n/g) } grep { $_->{headers}{'X-Grouped'} } requests('POST', qr{^/anything})),
	'B 10,B 10', 'which it leaves alone');

# The wait began when a row was queued: a worker that starts anew begins none.
sql(q(UPDATE cdi.destination_specs SET spec = jsonb_set(spec, '{actions,plain,batch,max_wait}', '"6s"') WHERE name = 'grouped'));
sleep 3;
kill_worker();
acknowledged('grouped', 25, 'rows that waited go on waiting when the worker ended');
my @late = map { $_->{time} } grep { ($_->{headers}{'X-Grouped'} // '') =~ /[AD]/ } requests('POST', qr{^/anything});
my $queued = sql(q(SELECT extract(epoch FROM max(queued_at)) FROM cdi.outbox o JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'grouped'));
cmp_ok($_ - $queued, '>=', 5.9, 'as long as they were to') foreach @late;
cmp_ok($_ - $queued, '<', 8.9, 'and no longer') foreach @late;

# ---- many groups: each row goes with its own, and when its turn comes ----

# A spec of that name whose requests say in a header what they are
sub variant
{
	my ($name, $batch, $header) = @_;
	$slow->{name} = $name;
	$slow->{actions}{plain}{batch} = $batch;
	$slow->{actions}{plain}{request}{headers} = { "X-$name" => $header };
	sql("SELECT cdi_install_destination_spec(\$json\$" . $json->encode($slow) . "\$json\$::jsonb)");
	destination($name, $name, {});
}

# Its requests: what they are, and their rows
sub variant_requests
{
	my ($name) = @_;
	return map { { what => $_->{headers}{"X-$name"}, rows => [ map { $json->decode($_) } split /\n/, $_->{body} ] } }
		grep { $_->{headers}{"X-$name"} } requests('POST', qr{^/anything});
}

sub sizes
{
	return map { "$_->{what} " . scalar(@{ $_->{rows} }) } variant_requests($_[0]);
}

# Ten rows of each of 170 groups, and one that waits of 100 of them; then nine more of these.
variant('many', { max_items => 10, max_wait => '1h' }, '{{batch.group}}');
my $members = q(SELECT n AS id, n || '@example.com' AS email, 'g' || n %% 170 AS name FROM generate_series(1, %d) n WHERE n <= 1700 OR (n - 1701) %% 170 < 100);
sync('many', 'plain', sprintf($members, 1800));
acknowledged('many', 1700, 'groups that fill a request go');
is_deeply([ sort(sizes('many')) ], [ sort map { "g$_ 10" } 0 .. 169 ], 'once each, and none that has room left');
sql("SELECT cdi_alter_sync('many', model => \$\$" . sprintf($members, 1700 + 10 * 170) . '$$)');
sql(q(SELECT cdi_sync_run('many')));
acknowledged('many', 2700, 'those that waited go when they do');
my %times;
my @astray;
foreach my $request (variant_requests('many'))
{
	$times{ $_->{email} }++ foreach @{ $request->{rows} };
	push @astray, grep { $_->{name} ne $request->{what} } @{ $request->{rows} };
}
is(scalar(keys %times), 2700, 'every row');
is_deeply([ grep { $times{$_} != 1 } keys %times ], [], 'once');
is_deeply(\@astray, [], 'with its group');
is(scalar(grep { !/ 10$/ } sizes('many')), 0, 'and in no more requests than it takes');

# A row that moves to another group waits until its former self has gone, and
# fills a request of the new one then.
variant('moves', { max_items => 10, max_wait => '1h' }, '{{batch.group}}');
sql(q(CREATE TABLE members AS SELECT n AS id, n || '@example.com' AS email, 'A' AS name FROM generate_series(1, 9) n));
sync('moves', 'plain', 'SELECT * FROM members');
sql(q(UPDATE members SET name = 'B' WHERE id = 5));
sql(q(INSERT INTO members SELECT n, n || '@example.com', 'B' FROM generate_series(11, 19) n));
sql(q(SELECT cdi_sync_run('moves')));
sql(q(INSERT INTO members VALUES (10, '10@example.com', 'A')));
sql(q(SELECT cdi_sync_run('moves')));
acknowledged('moves', 19, 'a row that has moved goes');
is(join(',', sizes('moves')), 'A 10,B 10', 'after its former self, with its new group');

# ... and so do rows that are in order by something else than their key.
delete $slow->{actions}{plain}{group_by};
variant('turns', { max_items => 10, max_wait => '1h' }, 'yes');
sql(q(SELECT cdi_create_sync('turns', 'turns', 'SELECT n AS id, n || ''@example.com'' AS email, ''t'' || n / 3 AS name FROM generate_series(0, 29) n', 'id', action => 'plain', order_key => '{"@path": "$.name"}')));
sql(q(SELECT cdi_sync_run('turns')));
acknowledged('turns', 30, 'rows whose turn comes go');
is(join(',', sizes('turns')), 'yes 10,yes 10,yes 10', 'ten at a time');
is_deeply([ map { [ sort map { $_->{name} } @{ $_->{rows} } ] } variant_requests('turns') ], [ ([ sort map { "t$_" } 0 .. 9 ]) x 3 ], 'one of each in each');

# What waits stops with its sync, is passed over with it, and is gone with it;
# the wait of others of the destination goes on, and ends where it is made shorter.
variant('stops', { max_items => 10, max_wait => '1h' }, '{{mapped.name}}');
foreach my $name ('paused', 'reset', 'dropped', 'stays')
{
	sql("SELECT cdi_create_sync('$name', 'stops', 'SELECT id, email, ''$name'' AS name FROM customers WHERE id <= 4', 'id', action => 'plain')");
	sql("SELECT cdi_sync_run('$name')");
}
sql(q(SELECT cdi_sync_pause('paused')));
sql(q(SELECT cdi_drop_sync('dropped')));
sql(q(SELECT cdi_sync_reset('reset')));
sql(q(SELECT cdi_sync_run('reset')));
is(join(',', sizes('stops')), '', 'all that has room left waits');
sql(q(UPDATE cdi.destination_specs SET spec = jsonb_set(spec, '{actions,plain,batch,max_wait}', '"1s"') WHERE name = 'stops'));
sql(q(SELECT cdi_enable_destination('stops')));	# the worker looks
acknowledged($_, 4, "$_ goes after a second") foreach 'reset', 'stays';
is(join(',', sort(sizes('stops'))), 'reset 4,stays 4', 'each once, and nothing that was stopped or dropped');
sql(q(SELECT cdi_sync_resume('paused')));
acknowledged('paused', 4, 'what was stopped goes on');
is(join(',', sort(sizes('stops'))), 'paused 4,reset 4,stays 4', 'once');

# ---- a request of more rows than are read at a time ----

$slow->{name} = 'large';
delete $slow->{actions}{plain}{group_by};
$slow->{actions}{plain}{batch} = { max_items => 7000, max_bytes => 8000000 };
$slow->{actions}{plain}{request}{headers} = { 'X-Large' => 'yes' };
sql("SELECT cdi_install_destination_spec(\$json\$" . $json->encode($slow) . "\$json\$::jsonb)");
destination('large', 'large', {});
sync('large', 'plain', q(SELECT n AS id, 'c' || n || '@example.com' AS email, 'C' AS name FROM generate_series(1, 14001) n));
acknowledged('large', 14001, 'all rows of large requests go');
is(join(',', map { scalar(() = $_->{body} =~ /\n/g) } grep { $_->{headers}{'X-Large'} } requests('POST', qr{^/anything})),
	'7000,7000,1', 'as many at once as the specification says');

# ---- several requests per row ----

destination('contacts', 'vendor', {});
curl('contacts', '{"email": "c3@example.com", "name": "old"}');
sync('contacts', 'contact', 'SELECT * FROM customers WHERE id <= 5');
acknowledged('contacts', 5, 'rows that are looked up first are acknowledged');
my %known = %{ state()->{contacts} };
is(scalar(keys %known), 5, 'the one that was there was found, the others were made');
is($known{1}{name}, 'C', 'and the one that was there was changed');
sql("UPDATE customers SET name = 'D' WHERE id <= 2");
sql("SELECT cdi_sync_run('contacts')");
ok($node->poll_query_until('shop', q(SELECT count(*) = 2 FROM cdi.sync_rows r JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'contacts' AND payload->>'name' = 'D')), 'changes are acknowledged');
is(scalar(keys %{ state()->{contacts} }), 5, 'and make no new contact');
is(sql(q(SELECT count(*) FROM cdi.deliveries d JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'contacts')), '14', 'each request is recorded');
is(sql(q(SELECT sum(accepted) FROM cdi.deliveries d JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'contacts')), '7', 'and each row accepted once');

# ---- a job ----

destination('jobs', 'vendor', {});
sql(q(UPDATE customers SET email = 'bad@example.com' WHERE id = 9));
sync('jobs', 'job', 'SELECT * FROM customers WHERE id <= 20');
acknowledged('jobs', 19, 'a job is asked about until it is done');
is(scalar(requests('GET', qr{^/jobs/1$})), 3, 'no more often than that');
is(sql(q(SELECT f.primary_key || ' ' || f.class || ' ' || f.error FROM cdi.failed_deliveries f JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'jobs')),
	'9 rejected not, accepted', 'the row that its result names is a dead letter');
kill_worker();
append_to_file("$requests_file.busy", '');
sql("UPDATE customers SET name = 'E' WHERE id BETWEEN 10 AND 12");
sql("SELECT cdi_sync_run('jobs')");
ok($node->poll_query_until('shop', q(SELECT count(*) > 0 FROM cdi.deliveries d JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'jobs' AND rows = 4)), 'another job is under way');
kill_worker();
unlink "$requests_file.busy";
ok($node->poll_query_until('shop', q(SELECT count(*) = 3 FROM cdi.sync_rows r JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'jobs' AND payload->>'name' = 'E')), 'and is done again after the worker was killed in the middle');

# ---- an access token ----

my %oauth = (refresh_token => 'secret:vendor', client_secret => 'file:client');
secret('vendor', 'r0');
destination('tokens', 'vendor', \%oauth);
sync('tokens', 'plain', 'SELECT * FROM customers WHERE id <= 5');
acknowledged('tokens', 5, 'rows go with an access token');
is(scalar(requests('POST', qr{^/token})), 1, 'which was asked for once');
curl('void', '{}');
sync_again('F');
is(scalar(requests('POST', qr{^/token})), 2, 'one that is refused is replaced');
kill_worker();
sync_again('G');
is(scalar(requests('POST', qr{^/token})), 3, 'the new refresh token was kept: another worker goes on with it');

sub sync_again
{
	my ($name) = @_;
	sql("UPDATE customers SET name = '$name' WHERE id <= 5");
	sql("SELECT cdi_sync_run('tokens')");
	ok($node->poll_query_until('shop', qq(SELECT count(*) = 5 FROM cdi.sync_rows r JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'tokens' AND payload->>'name' = '$name')), "rows $name are acknowledged");
}

# Somebody else changes the secret that takes the new refresh token, and does not commit.
my $session = $node->background_psql('shop');
$session->query_safe(q(BEGIN; UPDATE cdi.secrets SET updated_at = now() WHERE name = 'vendor'));
curl('void', '{}');
sql("UPDATE customers SET name = 'held' WHERE id <= 5");
sql("SELECT cdi_sync_run('tokens')");
ok($node->poll_query_until('shop', q(SELECT count(*) = 1 FROM cdi.stat_destinations WHERE destination = 'tokens' AND paused_reason LIKE '%another transaction has changed secret "vendor"%')),
	'while another transaction holds its secret, nothing goes with a token that came along with a new one');
destination('free', 'vendor', {});
sync('free', 'plain', 'SELECT * FROM customers WHERE id <= 5');
ok($node->poll_query_until('shop', q(SELECT count(*) > 0 FROM cdi.deliveries d JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'free')), 'other destinations do not wait for that');
sql(q(SELECT cdi_disable_destination('free')));
$session->query_safe('ROLLBACK');
$session->quit;
ok($node->poll_query_until('shop', q(SELECT count(*) = 5 FROM cdi.sync_rows r JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'tokens' AND payload->>'name' = 'held')), 'then it is stored, and rows go');
kill_worker();
sync_again('again');

my $offset = -s $node->logfile;
curl('void', '{"consent": true}');
sql("UPDATE customers SET name = 'H' WHERE id <= 5");
sql("SELECT cdi_sync_run('tokens')");
$node->wait_for_log(qr/destination "tokens" pauses/, $offset);
like(slurp_file($node->logfile, $offset), qr/must be authorized again/, 'a consent that was taken back is said so');
is(sql(q(SELECT count(*) FROM cdi.failed_deliveries f JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'tokens')), '0', 'no row pays for that');
curl('new-consent', '{"refresh_token": "fresh"}');
secret('vendor', 'fresh');
sql("SELECT cdi_alter_destination('tokens', '" . $json->encode({ base => "http://127.0.0.1:$port", %oauth }) . "')");
ok($node->poll_query_until('shop', q(SELECT count(*) = 5 FROM cdi.sync_rows r JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'tokens' AND payload->>'name' = 'H')), 'with a new consent what waited goes out');

# ---- no secret anywhere ----

my $log = slurp_file($node->logfile);
unlike($log, qr/s3cret/, 'no token is in the log');
unlike(sql('SELECT string_agg(d::text, E\'\n\') FROM cdi.deliveries d'), qr/s3cret/, 'nor in what is recorded');
my $dump = $node->basedir . '/dump.sql';
$node->command_ok([ 'pg_dump', '-p', $node->port, '-h', $node->host, '-f', $dump, 'shop' ], 'the database is dumped');
unlike(slurp_file($dump), qr/s3cret/, 'nor in the dump');

$vendor->kill_kill;
$node->stop;
done_testing();
