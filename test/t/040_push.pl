# Rows out: everything that was queued reaches its destination, whatever goes
# wrong on the way, and nothing leaves a copy of the database.
use strict;
use warnings;

use Encode;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

use FindBin;
use lib $FindBin::RealBin;
use CdiPush;

my $json = JSON::PP->new->utf8;
my $port = PostgreSQL::Test::Cluster::get_free_port();
my $dead_port = PostgreSQL::Test::Cluster::get_free_port();
my $node = PostgreSQL::Test::Cluster->new('push');

$node->init(allows_streaming => 1);
my $requests_file = $node->basedir . '/requests.jsonl';
my $secrets = $node->basedir . '/secrets';
mkdir $secrets;
append_to_file("$secrets/token", "Bearer s3cret-t0ken\n");
append_to_file("$secrets/signature", "Jefe\n");
append_to_file($node->basedir . '/outside', "not for you\n");
symlink($node->basedir . '/outside', "$secrets/link");
$node->append_conf('postgresql.conf', qq(
shared_preload_libraries = 'cdi'
fsync = off
max_worker_processes = 32
restart_after_crash = on
cdi.activate_retry_delay = '20ms'
cdi.activate_retry_max_delay = '200ms'
cdi.secret_directory = '$secrets'
));
$ENV{CDI_TEST_KEY} = 'from-the-environment';
$node->start;

append_to_file($requests_file, '');
my $receiver = start_receiver('receiver.py', $port, $requests_file);

sub requests
{
	my ($path) = @_;
	return grep { $_->{path} eq $path } received($requests_file);
}

# Rows of requests, as the webhook sends them
sub rows
{
	return map { @{ $json->decode(Encode::encode_utf8($_->{body})) } } requests(@_);
}

sub sql
{
	return $node->safe_psql('shop', $_[0]);
}

sub url
{
	return "http://127.0.0.1:$port/$_[0]";
}

sub destination
{
	my ($name, $path, $settings) = @_;
	sql(sprintf(q{SELECT cdi_create_destination('%s', settings => '%s')},
			$name, $json->encode({ url => url($path), %{ $settings // {} } })));
}

sub sync
{
	my ($name, $model) = @_;
	sql("SELECT cdi_create_sync('$name', '$name', \$\$$model\$\$, 'id')");
	sql("SELECT cdi_sync_run('$name')");
}

# Until n rows are acknowledged
sub acknowledged
{
	my ($name, $n, $what) = @_;
	ok($node->poll_query_until('shop', qq(
		SELECT count(*) = $n FROM cdi.sync_rows r JOIN cdi.syncs s USING (sync_id) WHERE s.name = '$name')), $what)
		or diag(sql(qq(SELECT d.class, d.status, d.error, d.rows, d.attempt FROM cdi.deliveries d JOIN cdi.syncs s USING (sync_id) WHERE s.name = '$name' ORDER BY sent_at DESC LIMIT 10)));
}

sub dead
{
	my ($name) = @_;
	return sql(qq(SELECT string_agg(f.primary_key, ' ' ORDER BY f.primary_key::int) FROM cdi.failed_deliveries f JOIN cdi.syncs s USING (sync_id) WHERE s.name = '$name'));
}

sub classes
{
	my ($name) = @_;
	return sql(qq(SELECT string_agg(DISTINCT d.class, ' ' ORDER BY d.class) FROM cdi.deliveries d JOIN cdi.syncs s USING (sync_id) WHERE s.name = '$name'));
}

$node->safe_psql('postgres', 'CREATE DATABASE shop');
sql('CREATE EXTENSION cdi');
sql('SELECT cdi_init()');
sql(q(
	CREATE TABLE customers (id integer, name text, revenue numeric, bad boolean);
	INSERT INTO customers VALUES (1, 'Ada', 19.99), (2, 'Bé"\\', 0.1), (3, 'C', 12345678901234567890), (4, 'D', 1e400), (5, 'E', 1.10);
	INSERT INTO customers SELECT n, 'Customer ' || n, n * 0.01, n IN (77, 500) FROM generate_series(6, 500) n));
my $model = 'SELECT * FROM customers';
my $few = 'SELECT * FROM customers WHERE id <= 20';

# ---- nothing leaves before it may ----

destination('first', 'ok/first');
sync('first', $model);
ok($node->poll_query_until('shop', q(SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'cdi push' AND datname = 'shop')), 'the push worker runs');
sleep 0.5;
is(scalar(requests('/ok/first')), 0, 'a database that was never armed sends nothing');
is(sql('SELECT cdi_armed()'), 'never armed', 'and says so');
sql('SELECT cdi_arm()');
ok($node->poll_query_until('shop', q(SELECT count(*) > 0 FROM cdi.deliveries WHERE class = 'auth' AND status IS NULL AND error LIKE '%loopback%')),
	'a loopback address is refused');
is(scalar(requests('/ok/first')), 0, 'and was not connected to');
is(dead('first'), '', 'no row pays for that');

# The networks that IANA's registries of special addresses call not globally
# reachable, multicast, metadata services, and other ways to write them
my @never = qw(0.0.0.0 0 0.1.2.3 224.0.0.1 255.255.255.255 169.254.169.254 0xa9fea9fe 169.254.170.2 100.100.100.200 168.63.129.16 192.0.0.192
	[::] [ff02::1] [fd00:ec2::254] [fd20:ce::254] [::ffff:169.254.169.254] [::169.254.169.254] [64:ff9b::a9fe:a9fe] [64:ff9b:1::a9fe:a9fe] [2002:a9fe:a9fe::1] [::ffff:0:a9fe:a9fe]);
my @private = qw(127.0.0.1 127.1 2130706433 0x7f.1 017700000001 localhost 10.0.0.1 100.64.0.1 169.254.1.1 172.16.0.1 172.31.255.255 192.0.0.1 192.0.2.1 192.88.99.1
	192.168.1.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 [::1] [fc00::1] [fdff::1] [fe80::1] [fec0::1] [::ffff:127.0.0.1] [::ffff:10.0.0.1] [::127.0.0.1]
	[64:ff9b::7f00:1] [64:ff9b:1::1] [2002:7f00:1::1] [100::1] [100:0:0:1::1] [2001::1] [2001:2::1] [2001:db8::1] [3fff::1] [5f00::1]);

sub refused_addresses
{
	my ($prefix, $what, @hosts) = @_;
	my $list = join ',', map { "\$\$$_\$\$" } @hosts;
	my $n = @hosts;
	sql(qq(SELECT cdi_create_destination('$prefix' || n, settings => jsonb_build_object('url', format('http://%s:$port/ok/refused', host))), cdi_create_sync('$prefix' || n, '$prefix' || n, 'SELECT 1 AS id', 'id'), cdi_sync_run('$prefix' || n)
		FROM unnest(ARRAY[$list]) WITH ORDINALITY h (host, n)));
	ok($node->poll_query_until('shop', qq(SELECT count(*) = $n FROM cdi.stat_destinations WHERE destination ~ '^$prefix\\d' AND paused_reason LIKE 'the address is private%')), $what)
		or diag(sql(qq(SELECT d.settings ->> 'url' FROM cdi.destinations d JOIN cdi.stat_destinations t ON t.destination = d.name WHERE d.name ~ '^$prefix\\d' AND coalesce(t.paused_reason, '') NOT LIKE 'the address is private%')));
	is(scalar(requests('/ok/refused')), 0, 'and nothing arrives');
	sql(qq(SELECT cdi_drop_sync('$prefix' || n), cdi_drop_destination('$prefix' || n) FROM generate_series(1, $n) n));
}
refused_addresses('none', 'addresses that are not public are refused, however they are written', @never, @private);
$node->append_conf('postgresql.conf', 'cdi.egress_allow_private = on');
$node->reload;
sleep 0.3;
refused_addresses('never', 'and some of them though private ones are allowed', @never);
acknowledged('first', 500, 'every row is acknowledged once the address is allowed');

# ---- what was sent ----

my @rows = rows('/ok/first');
is(scalar(@rows), 500, 'each row was sent once');
is(join(',', sort { $a <=> $b } map { $_->{primary_key} } @rows), join(',', 1 .. 500), 'and none is missing');
is(join(' ', sort { $a cmp $b } keys %{ { map { $_->{operation} => 1 } @rows } }), 'insert', 'as insertions');
my $bodies = join "\n", map { $_->{body} } requests('/ok/first');
like($bodies, qr/"revenue": 19\.99[,}]/, '19.99 leaves as it came');
like($bodies, qr/"revenue": 0\.1[,}]/, '0.1 leaves as it came');
like($bodies, qr/"revenue": 12345678901234567890[,}]/, '12345678901234567890 leaves as it came');
like($bodies, qr/"revenue": 10{400}[,}]/, '1e400 leaves as it came');
like($bodies, qr/"revenue": 1\.10[,}]/, '1.10 leaves as it came');
is(Encode::encode_utf8((grep { $_->{primary_key} eq '2' } @rows)[0]->{row}->{name}), 'Bé"\\', 'text leaves as it came');
is(sql(q(SELECT bool_and(accepted = rows AND class = 'ok' AND status = 200 AND cardinality(primary_keys) = rows) FROM cdi.deliveries WHERE class <> 'auth')), 't',
	'every request has its delivery row');

sql(q(UPDATE customers SET name = 'Ada Lovelace' WHERE id = 1; DELETE FROM customers WHERE id = 6));
sql(q(SELECT cdi_sync_run('first')));
acknowledged('first', 499, 'a removed row leaves the acknowledged state');
ok($node->poll_query_until('shop', q(SELECT count(*) = 0 FROM cdi.outbox o JOIN cdi.push_cursor c USING (sync_id) WHERE o.position > c.position)),
	'the cursor passes what has ended');
is(join(' ', map { "$_->{operation}:$_->{primary_key}:$_->{row}->{name}" } sort { $a->{primary_key} <=> $b->{primary_key} } (rows('/ok/first'))[500 .. 501]),
	'update:1:Ada Lovelace delete:6:Customer 6', 'what changed was sent, and a removal with the last row');

# ---- what goes wrong ----

destination($_, "$_/a", { batch_size => 50 }) for qw(flaky throttle reject partial small reset head endless);
for my $name (qw(flaky throttle reset head endless))
{
	sync($name, $model);
	acknowledged($name, 499, "$name: every row is acknowledged in the end");
	is(dead($name), '', "$name: none is lost");
}
is(classes('flaky'), 'ok retryable', 'a failed request is sent again');
is(classes($_), 'ok retryable', "$_: an answer that breaks off accepts nothing") for qw(reset head);
is(classes('throttle'), 'ok throttled', 'too many requests: sent again');
my @throttled = sort { $a->{time} <=> $b->{time} } requests('/throttle/a');
my %sent_again;
push @{ $sent_again{ $_->{headers}->{'Idempotency-Key'} } }, $_ for @throttled;
my ($again) = grep { @$_ == 2 } values %sent_again;
ok($again && $again->[1]->{time} - $again->[0]->{time} >= 0.95, 'after the time that the destination asked for, under the same idempotency key');
for my $name (qw(reject partial))
{
	sync($name, $model);
	acknowledged($name, 497, "$name: the neighbours of bad rows are delivered");
	ok($node->poll_query_until('shop', qq(SELECT count(*) = 2 FROM cdi.failed_deliveries f JOIN cdi.syncs s USING (sync_id) WHERE s.name = '$name')), "$name: two dead letters");
	is(dead($name), '77 500', "$name: the bad rows are found");
}
is(classes('reject'), 'ok rejected split', 'a rejected request is halved until the row is alone');
is(sql(q(SELECT f.class FROM cdi.failed_deliveries f JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'partial' AND f.primary_key = '77' AND f.error LIKE 'row % is bad')), 'rejected', 'with what the destination said of each');
sync('small', $few);
acknowledged('small', 19, 'too large: halved until it fits');
is(dead('small'), '', 'and none is lost');

# ---- dead letters ----

$node->append_conf('postgresql.conf', 'cdi.activate_retry_limit = 3');
$node->reload;
destination('fail', 'fail/a', { batch_size => 5 });
sync('fail', $few);
ok($node->poll_query_until('shop', q(SELECT count(*) = 19 FROM cdi.failed_deliveries f JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'fail')), 'out of retries: dead letters');
is(sql(q(SELECT min(f.attempts) || ' ' || max(f.attempts) || ' ' || min(f.class) || ' ' || min(f.status) FROM cdi.failed_deliveries f JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'fail')),
	'3 3 retryable 500', 'that say why');
sql(sprintf(q(SELECT cdi_alter_destination('fail', '{"url": "%s"}')), url('ok/repaired')));
is(sql(q(SELECT cdi_replay_delivery(sync => 'fail'))), '19', 'they are replayed');
acknowledged('fail', 19, 'to the address that works');
is(dead('fail'), '', 'and are dead no more');
my %failed_keys = map { $_->{primary_key} => $_->{idempotency_key} } rows('/fail/a');
is(scalar(grep { $failed_keys{ $_->{primary_key} } ne $_->{idempotency_key} } rows('/ok/repaired')), 0, 'with the idempotency keys they had');

$node->append_conf('postgresql.conf', 'cdi.activate_retry_limit = 8');
$node->reload;

# ---- settings at fault, secrets ----

destination('denied', 'denied/a', { batch_size => 5 });
sync('denied', $few);
ok($node->poll_query_until('shop', q(SELECT count(*) >= 2 FROM cdi.deliveries WHERE status = 401)), 'refused credentials: tried again');
is(dead('denied'), '', 'and no row pays for it');
sql(sprintf(q(SELECT cdi_alter_destination('denied', '{"url": "%s", "authorization": "file:token", "signing_secret": "file:signature", "secret_headers": {"X-Api-Key": "env:CDI_TEST_KEY"}}')), url('ok/allowed')));
acknowledged('denied', 19, 'with the right ones every row is delivered');
my ($signed) = requests('/ok/allowed');
is($signed->{headers}->{Authorization}, 'Bearer s3cret-t0ken', 'a secret from a file');
is($signed->{headers}->{'X-Api-Key'}, 'from-the-environment', 'a secret from the environment');
is($signed->{headers}->{'X-Signature-256'}, 'sha256=' . hmac($signed->{body}), 'a signature over the body');
destination('echo', 'echo/a', { authorization => 'file:token', batch_size => 50 });
sync('echo', 'SELECT 1 AS id');
ok($node->poll_query_until('shop', q(SELECT count(*) = 1 FROM cdi.failed_deliveries f JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'echo')), 'a destination that echoes headers');
destination('outside', 'ok/outside', { authorization => 'file:link' });
sync('outside', 'SELECT 1 AS id');
destination('up', 'ok/up', { authorization => 'file:../outside' });
sync('up', 'SELECT 1 AS id');
destination('environment', 'ok/environment', { authorization => 'env:PATH' });
sync('environment', 'SELECT 1 AS id');
ok($node->poll_query_until('shop', q(SELECT count(*) = 3 FROM cdi.stat_destinations WHERE destination IN ('outside', 'up', 'environment') AND paused_reason IS NOT NULL)), 'destinations whose secrets cannot be read pause');
is(scalar(requests("/ok/$_")), 0, "$_: a reference to what is none of its business is not followed") for qw(outside up environment);
my $dump = $node->basedir . '/shop.sql';
command_ok([ 'pg_dump', '-h', $node->host, '-p', $node->port, '-f', $dump, 'shop' ], 'dump');
unlike(slurp_file($dump), qr/s3cret-t0ken|from-the-environment/, 'no secret is in the dump');
unlike(slurp_file($node->logfile), qr/s3cret-t0ken|from-the-environment|not for you/, 'nor in the log');

# ---- one destination does not wait for another ----

sql(sprintf(q(SELECT cdi_create_destination('dead', settings => '{"url": "http://127.0.0.1:%d/"}')), $dead_port));
# who waits for an answer waits for longer than this test
sql(q(SELECT cdi_install_destination_spec(replace(jsonb_set(spec, '{name}', '"patient"')::text, '"30s"', '"10min"')::jsonb) FROM cdi.destination_specs WHERE name = 'webhook'));
sql(sprintf(q{SELECT cdi_create_destination('hold', 'patient', '%s')}, $json->encode({ url => url('hold/a'), batch_size => 1 })));
destination('quick', 'ok/quick');
sync('dead', $model);
sync('hold', $few);
ok($node->poll_query_until('shop', q(SELECT count(*) > 3 FROM cdi.deliveries WHERE class = 'retryable' AND status IS NULL)), 'one destination is dead');
sync('quick', $model);
acknowledged('quick', 499, 'another is served');
is(sql(q(SELECT count(*) FROM cdi.sync_rows r JOIN cdi.syncs s USING (sync_id) WHERE s.name IN ('dead', 'hold'))), '0', 'while a third does not answer');
is($node->safe_psql('postgres', q(SELECT count(*) FROM pg_stat_activity WHERE application_name = 'cdi push' AND (xact_start IS NOT NULL OR backend_xmin IS NOT NULL) AND state <> 'active')), '0',
	'and no transaction is open');
sql(q(SELECT cdi_sync_pause('dead')));

# ---- kill -9 between sending and recording ----

cmp_ok(scalar(requests('/hold/a')), '>=', 1, 'requests are at the receiver and not answered');
my %before = map { $_->{primary_key} => $_->{idempotency_key} } rows('/hold/a');
ok(kill_push_worker($node), 'the server is back with a new push worker');
append_to_file("$requests_file.release", '');
acknowledged('hold', 19, 'every row is acknowledged');
my (%times, %keys);
for my $row (rows('/hold/a'))
{
	$times{ $row->{primary_key} }++;
	$keys{ $row->{primary_key} }{ $row->{idempotency_key} } = 1;
}
is(scalar(keys %times), 19, 'every row was sent');
is(scalar(grep { $times{$_} < 2 } keys %before), 0, 'what was not recorded was sent again');
is(scalar(grep { keys %{ $keys{$_} } != 1 } keys %keys), 0, 'under the same idempotency key');
is(dead('hold'), '', 'and none is lost');

# ---- order ----

# Version 1 has failed, and waits for its next attempt, when the others are queued.
$node->append_conf('postgresql.conf', "cdi.activate_retry_delay = '1h'\ncdi.activate_retry_max_delay = '1h'");
$node->reload;
destination('order', 'fail/order');
sql('CREATE TABLE state (id integer, version integer); INSERT INTO state VALUES (1, 1)');
sync('order', 'SELECT * FROM state');
ok($node->poll_query_until('shop', q(SELECT count(*) = 1 FROM cdi.deliveries d JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'order' AND d.class = 'retryable')), 'a state fails');
sql(q(UPDATE state SET version = 2; SELECT cdi_sync_run('order'); UPDATE state SET version = 3; SELECT cdi_sync_run('order')));
$node->append_conf('postgresql.conf', "cdi.activate_retry_delay = '20ms'\ncdi.activate_retry_max_delay = '200ms'");
$node->reload;
sql(sprintf(q(SELECT cdi_alter_destination('order', '{"url": "%s"}')), url('flaky/order')));
ok($node->poll_query_until('shop', q(SELECT count(*) = 1 FROM cdi.sync_rows r JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'order' AND r.payload @> '{"version": 3}')), 'the newest state arrives');
is(join(' ', map { $_->{row}->{version} } rows('/fail/order')), '1', 'after the first');
is(join(' ', keys %{ { map { $_->{row}->{version} => 1 } rows('/flaky/order') } }), '3', 'and nothing that was true between is sent any more');
is(sql(q(SELECT operation FROM cdi.outbox o JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'order' ORDER BY position DESC LIMIT 1)), 'update', 'what was queued as a change');
is(join(' ', keys %{ { map { $_->{operation} => 1 } rows('/flaky/order') } }), 'insert', 'is sent as an insertion, for nothing before it was accepted');
destination('corrected', 'reject/corrected');
sql('CREATE TABLE corrections (id integer, bad boolean); INSERT INTO corrections VALUES (1, true)');
sql(q(SELECT cdi_create_sync('corrected', 'corrected', 'SELECT * FROM corrections', 'id')));
sql(q(BEGIN; SELECT cdi_sync_run('corrected'); UPDATE corrections SET bad = false; SELECT cdi_sync_run('corrected'); COMMIT));
acknowledged('corrected', 1, 'a row that is rejected does not stop the next of its key');
is(join(' ', map { "$_->{operation}:$_->{row}->{bad}" } rows('/reject/corrected')), 'insert:1 insert:0', 'which is then the one that inserts');

# ---- copies ----

destination('copies', 'ok/copies');
sync('copies', 'SELECT 1 AS id');
acknowledged('copies', 1, 'the original sends');
command_ok([ 'pg_dump', '-h', $node->host, '-p', $node->port, '-f', $dump, 'shop' ], 'dump again');
$node->safe_psql('postgres', 'CREATE DATABASE restored');
command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-h', $node->host, '-p', $node->port, '-d', 'restored', '-f', $dump ], 'restore');
$node->backup('copy');
sql('SELECT cdi_disarm()');

sub is_silent
{
	my ($copy, $database, $what) = @_;
	is($copy->safe_psql($database, 'SELECT cdi_armed()'), 'copy', "$what: knows that it is a copy");
	$copy->safe_psql($database, q(SELECT cdi_create_sync('copied', 'copies', 'SELECT 2 AS id', 'id')));
	$copy->safe_psql($database, q(SELECT cdi_sync_run('copied')));
	ok($copy->poll_query_until($database, q(SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'cdi push' AND datname = current_database())), "$what: its push worker runs");
	ok(wait_until(sub { slurp_file($copy->logfile) =~ /is a copy of one that was armed, and does not push/ }), "$what: and says why it sends nothing");
	is(scalar(requests('/ok/copies')), 1, "$what: sends nothing");
	my ($status, undef, $stderr) = $copy->psql($database, 'SELECT cdi_arm()');
	like($stderr, qr/cdi_arm\(trust => true\)/, "$what: arming it asks what to trust");
}

$node->safe_psql('restored', 'SELECT cdi_init()');
is_silent($node, 'restored', 'restored dump');

my $copy = PostgreSQL::Test::Cluster->new('copy');
$copy->init_from_backup($node, 'copy');
$copy->append_conf('postgresql.conf', 'cdi.egress_allow_private = on');
$copy->start;
is_silent($copy, 'shop', 'pg_basebackup');
$copy->stop;

$node->safe_psql('restored', 'SELECT cdi_arm(trust => false)');
$node->safe_psql('restored', q(SELECT cdi_sync_run('copied')));
ok($node->poll_query_until('restored', q(SELECT count(*) = 1 FROM cdi.sync_rows r JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'copied')), 'a copy that was armed sends');
is($node->safe_psql('restored', q(SELECT count(*) FROM cdi.sync_rows r JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'copies')), '0', 'and believes nothing of before');
sql(q(UPDATE state SET version = 4; SELECT cdi_sync_run('order')));
sleep 0.5;
is((map { $_->{row}->{version} } rows('/flaky/order'))[-1], 3, 'a disarmed database sends nothing');
sql('SELECT cdi_arm()');
ok($node->poll_query_until('shop', q(SELECT count(*) = 1 FROM cdi.sync_rows r JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'order' AND r.payload @> '{"version": 4}')), 'until it is armed again');
is(sql('SELECT bool_and(queried = added + changed + removed + unchanged + invalid) FROM cdi.sync_runs'), 't', 'every run adds up');
is(sql('SELECT bool_and(attempted = ok + rejected + retryable) AND sum(ok) > 0 AND sum(rejected) > 0 AND sum(retryable) > 0 FROM cdi.sync_runs'), 't', 'and so do its attempts');
# in one statement each: what pauses is tried again all the time
is(sql('SELECT sum(ok) - (SELECT sum(accepted) FROM cdi.deliveries) FROM cdi.sync_runs'), '0', 'what runs say was accepted is what requests say');
is(sql('SELECT sum(attempted) - (SELECT sum(rows) FROM cdi.deliveries) FROM cdi.sync_runs'), '0', 'and so is what was attempted');

$receiver->kill_kill;
$node->stop;
done_testing();

# Independent of what signs: the openssl program
sub hmac
{
	my ($body) = @_;
	my $file = $node->basedir . '/body';
	my ($stdout, $stderr) = ('', '');

	unlink $file;
	append_to_file($file, Encode::encode_utf8($body));
	IPC::Run::run([ 'openssl', 'dgst', '-sha256', '-hmac', 'Jefe', $file ], '>', \$stdout, '2>', \$stderr);
	return $stdout =~ /([0-9a-f]{64})/ ? $1 : $stderr;
}
