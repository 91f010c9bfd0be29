# Rows out through faults: whatever the receiver, the network or the machine
# does, each row is acknowledged or visible as a dead letter, and none is lost.
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
my ($port, $tls_port, $dead_port) = map { PostgreSQL::Test::Cluster::get_free_port() } 1 .. 3;
my $node = PostgreSQL::Test::Cluster->new('push_faults');

$node->init;
my $dir = $node->basedir;
my ($requests_file, $tls_requests_file, $hosts) = ("$dir/requests.jsonl", "$dir/tls.jsonl", "$dir/hosts");
append_to_file($_, '') for $requests_file, $tls_requests_file;
$node->append_conf('postgresql.conf', q(
shared_preload_libraries = 'cdi'
fsync = off
max_worker_processes = 32
restart_after_crash = on
cdi.activate_retry_delay = '20ms'
cdi.activate_retry_max_delay = '200ms'
cdi.activate_retry_limit = 10000
cdi.egress_allow_private = on
));

# An authority of the test's own, a certificate for right.resolve.test, and one
# that nobody vouches for
run_quietly('openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-keyout', "$dir/ca.key", '-out', "$dir/ca.crt", '-subj', '/CN=test authority', '-days', '2');
run_quietly('openssl', 'req', '-newkey', 'rsa:2048', '-nodes', '-keyout', "$dir/right.key", '-out', "$dir/right.csr", '-subj', '/CN=right.resolve.test');
append_to_file("$dir/right.ext", "subjectAltName=DNS:right.resolve.test\n");
run_quietly('openssl', 'x509', '-req', '-in', "$dir/right.csr", '-CA', "$dir/ca.crt", '-CAkey', "$dir/ca.key", '-CAcreateserial', '-extfile', "$dir/right.ext", '-out', "$dir/right.crt", '-days', '2');
run_quietly('openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-keyout', "$dir/self.key", '-out', "$dir/self.crt", '-subj', '/CN=self.resolve.test', '-addext', 'subjectAltName=DNS:self.resolve.test', '-days', '2');
append_to_file("$dir/$_.pem", slurp_file("$dir/$_.crt") . slurp_file("$dir/$_.key")) for qw(right self);
run_quietly('cc', '-shared', '-fPIC', '-o', "$dir/resolve.so", "$ENV{CDI_ROOT}/test/lib/resolve.c", '-ldl');
names(map { $_ => '127.0.0.1' } qw(right wrong self moving));
{
	local $ENV{LD_PRELOAD} = "$dir/resolve.so";
	local $ENV{CDI_TEST_HOSTS} = $hosts;
	local $ENV{CDI_TEST_AUTHORITIES} = "$dir/ca.crt";
	$node->start;
}

my @receivers;
receiver($port, $requests_file);

sub run_quietly
{
	my ($stdout, $stderr) = ('', '');
	IPC::Run::run([@_], '>', \$stdout, '2>', \$stderr) or die "@_: $stderr";
}

# What names resolve to from now on
sub names
{
	my %address = @_;
	open my $file, '>', "$hosts.new" or die;
	print $file "$_.resolve.test $address{$_}\n" for sort keys %address;
	close $file;
	rename "$hosts.new", $hosts;
}

sub receiver
{
	push @receivers, start_receiver('receiver.py', @_);
	return $receivers[-1];
}

sub requests
{
	my ($path, $file) = @_;
	return grep { $_->{path} eq $path } received($file // $requests_file);
}

sub sql
{
	return $node->safe_psql('shop', $_[0]);
}

sub until_sql
{
	my ($query, $what) = @_;
	ok($node->poll_query_until('shop', $query), $what)
		or diag(sql(q(SELECT d.name, v.class, v.status, v.error, v.rows, v.attempt FROM cdi.deliveries v JOIN cdi.destinations d USING (destination_id) ORDER BY sent_at DESC LIMIT 15)));
}

sub destination
{
	my ($name, $url, %settings) = @_;
	sql(sprintf(q{SELECT cdi_create_destination('%s', settings => '%s')}, $name, $json->encode({ url => $url, %settings })));
}

sub sync
{
	my ($name, $model, $action) = @_;
	sql(sprintf(q{SELECT cdi_create_sync('%s', '%s', $$%s$$, 'id'%s)}, $name, ($name =~ /^(shape)/ ? $1 : $name), $model, $action ? ", action => '$action'" : ''));
	sql("SELECT cdi_sync_run('$name')");
}

sub acknowledged
{
	my ($name) = @_;
	return sql(qq(SELECT count(*) FROM cdi.sync_rows r JOIN cdi.syncs s USING (sync_id) WHERE s.name = '$name'));
}

sub dead
{
	my ($name) = @_;
	return sql(qq(SELECT string_agg(f.primary_key, ' ' ORDER BY f.primary_key::int) FROM cdi.failed_deliveries f JOIN cdi.syncs s USING (sync_id) WHERE s.name = '$name'));
}

# Every row of the sync has ended
sub ended
{
	my ($name, $n, $what) = @_;
	until_sql(qq(
		SELECT (SELECT count(*) FROM cdi.sync_rows r WHERE r.sync_id = s.sync_id) + (SELECT count(*) FROM cdi.failed_deliveries f WHERE f.sync_id = s.sync_id) = $n
		FROM cdi.syncs s WHERE s.name = '$name'), $what // "$name: every row is acknowledged or a dead letter");
}

sub url
{
	return "http://127.0.0.1:$port/$_[0]";
}

$node->safe_psql('postgres', 'CREATE DATABASE shop');
sql('CREATE EXTENSION cdi; SELECT cdi_init(); SELECT cdi_arm()');
sql(q(CREATE TABLE people AS SELECT n AS id, 'p' || n || '@example.com' AS email, CASE WHEN n % 2 = 0 THEN 'event' ELSE 'person' END AS kind, n IN (3, 8) AS bad FROM generate_series(1, 20) n));
my $model = 'SELECT * FROM people';
my $good = 'SELECT id, email FROM people';

# ---- refused, timeout, 429 without a word ----

destination('refused', "http://127.0.0.1:$dead_port/", batch_size => 5);
sync('refused', $good);
until_sql(q(SELECT count(*) = 1 FROM cdi.stat_destinations WHERE destination = 'refused' AND open_since IS NOT NULL AND open_reason LIKE 'it does not answer: %' AND next_try_at IS NOT NULL AND waiting = 20 AND paused_reason IS NULL),
	'connections refused: the circuit opens, and it can be seen');
receiver($dead_port, $requests_file);
ended('refused', 20, 'refused: every row ends once the receiver is there');
is(acknowledged('refused'), 20, 'and is acknowledged');
until_sql(q(SELECT count(*) = 1 FROM cdi.stat_destinations WHERE destination = 'refused' AND open_since IS NULL AND next_try_at IS NULL AND waiting = 0 AND ok = 20 AND rejected = 0),
	'and the circuit is closed');

destination('busy', url('busy/a'), batch_size => 20);
sync('busy', $good);
ended('busy', 20);
is(sql(q(SELECT string_agg(class || attempt, ' ' ORDER BY attempt) FROM cdi.deliveries JOIN cdi.destinations USING (destination_id) WHERE name = 'busy')), 'throttled1 throttled2 ok3',
	'429 without Retry-After: backs off by itself');

# ---- partial failures ----

my %shapes = (
	index => { each => '$.errors', index => '@.index', message => '@.message' },
	list => { each => '$.errors', index => '@.index', array => '@.list', message => '@.message' },
	value => { each => '$.failed', match => { value => '@', to => 'mapped.email' }, message => { '@literal' => 'no' } },
	pointer => { each => '$.errors', index => { '@pipe' => [ { '@path' => '@.source.pointer' }, [ 'extract', 'rows/([0-9]+)' ] ] }, message => '@.detail' },
	positional => { each => '$.results', when => { eq => [ '@.success', JSON::PP::false ] }, message => '@.error' });
my %actions = map {
	my $shape = $_;
	$shape => {
		ops => [ 'insert', 'update' ],
		map => { email => { '@path' => '$.email' }, bad => { '@path' => '$.bad' } },
		batch => { max_items => 20 },
		$shape eq 'list' ? (list => { '@if' => { condition => { eq => [ '$.kind', 'event' ] }, then => 'events', else => 'people' } }) : (),
		request => { method => 'POST', url => '{{settings.url}}/' . $shape, idempotency => { header => 'Idempotency-Key' },
			body => { format => 'json', template => $shape eq 'list' ? { events => { '@items' => 'events' }, people => { '@items' => 'people' } } : { rows => { '@items' => '*' } } } },
		response => { rules => [ { status => ['2xx'], class => 'ok', rows => $shapes{$shape} } ] } } } keys %shapes;
$actions{slow} = { ops => ['insert'], map => { row => { email => { '@path' => '$.email' } } }, batch => { max_items => 20 },
	request => { method => 'POST', url => '{{settings.slow}}', timeout => '300ms', body => { format => 'json', template => { '@items' => '*' } } } };
sql(sprintf(q{SELECT cdi_install_destination_spec($spec$%s$spec$)}, $json->encode({
	'$schema' => 'cdi-dest-1', name => 'shapes', version => '1', default_action => 'index', actions => \%actions,
	settings => { type => 'object', required => ['url'], properties => { url => { type => 'string' }, slow => { type => 'string', default => 'http://x.test/' } } } })));
sql(sprintf(q{SELECT cdi_create_destination('shape', 'shapes', '{"url": "%s", "slow": "%s"}')}, url('shape'), url('hold/slow')));
for my $shape (sort keys %shapes)
{
	sync("shape_$shape", $model, $shape);
	ended("shape_$shape", 20);
	is(dead("shape_$shape"), '3 8', "$shape: the bad rows are found");
	is(sql(qq(SELECT string_agg(DISTINCT f.class || ' ' || f.error, ', ') FROM cdi.failed_deliveries f JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'shape_$shape')), 'rejected no', "$shape: with what was said of them");
	is(sql(qq(SELECT attempted || ' ' || ok || ' ' || rejected || ' ' || retryable FROM cdi.sync_runs JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'shape_$shape')), '20 18 2 0', "$shape: and counted");
}

# ---- no answer in time ----

sync('shape_slow', $good, 'slow');
until_sql(q(SELECT count(*) >= 2 FROM cdi.deliveries d JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'shape_slow' AND d.class = 'retryable' AND d.status IS NULL AND d.error ILIKE '%time%'), 'no answer in time: tried again');
append_to_file("$requests_file.release", '');
ended('shape_slow', 20, 'and delivered when it answers in time');
is(acknowledged('shape_slow'), 20, 'all of it');
unlink "$requests_file.release";

# ---- certificates, names, redirects ----

my $tls = receiver($tls_port, $tls_requests_file, "$dir/self.pem");
destination('self', "https://self.resolve.test:$tls_port/ok/self");
sync('self', $good);
until_sql(q(SELECT count(*) = 1 FROM cdi.stat_destinations WHERE destination = 'self' AND paused_reason ~* 'certificate'), 'a certificate that nobody vouches for: the destination pauses and says so');
$tls->kill_kill;
receiver($tls_port, $tls_requests_file, "$dir/right.pem");
destination('right', "https://right.resolve.test:$tls_port/ok/right");
destination('wrong', "https://wrong.resolve.test:$tls_port/ok/wrong");
sync($_, $good) for qw(right wrong);
ended('right', 20, 'a certificate that holds');
is(acknowledged('right'), 20, 'is accepted');
until_sql(q(SELECT count(*) = 1 FROM cdi.stat_destinations WHERE destination = 'wrong' AND paused_reason ~* 'wrong\.resolve\.test|subject'), 'one of another host: the destination pauses and says so');
is(sql(q(SELECT string_agg(DISTINCT v.class || coalesce(v.status::text, ''), ' ') FROM cdi.deliveries v JOIN cdi.destinations d USING (destination_id) WHERE d.name = 'wrong')), 'auth', 'as a fault of the settings');
is(scalar(requests('/ok/self', $tls_requests_file)) + scalar(requests('/ok/wrong', $tls_requests_file)), 0, 'and nothing was sent');
is(dead('self') . dead('wrong'), '', 'nor does a row pay for it');

destination('moved', url('moved/a'), batch_size => 20);
sync('moved', $good);
until_sql(q(SELECT count(*) = 1 FROM cdi.stat_destinations WHERE destination = 'moved' AND paused_reason LIKE '%302%'), 'a redirect: the destination pauses and says so');
is(scalar(requests('/ok/moved')), 0, 'and it is not followed');

destination('moving', "http://moving.resolve.test:$port/ok/moving");
sync('moving', $good);
ended('moving', 20, 'a name that resolves to an allowed address');
names(map { $_ => '169.254.169.254' } qw(moving));
kill_push_worker($node);
sql(q(UPDATE people SET email = 'new' || email WHERE id = 1; SELECT cdi_sync_run('moving')));
until_sql(q(SELECT count(*) = 1 FROM cdi.stat_destinations WHERE destination = 'moving' AND paused_reason LIKE '%metadata%'), 'and later to that of a metadata service: refused');
names(map { $_ => '127.0.0.1' } qw(moving));
kill_push_worker($node);
until_sql(q(SELECT count(*) = 1 FROM cdi.sync_rows r JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'moving' AND r.payload ->> 'email' LIKE 'new%'), 'and back: delivered');
my $before = requests('/ok/moving');
$node->append_conf('postgresql.conf', 'cdi.egress_allow_private = off');
$node->reload;
sleep 0.3;
sql(q(UPDATE people SET email = 'newer' || email WHERE id = 2; SELECT cdi_sync_run('moving')));
until_sql(q(SELECT count(*) = 1 FROM cdi.stat_destinations WHERE destination = 'moving' AND paused_reason LIKE '%private%'), 'private addresses are not allowed any more: refused over the connection that is there, too');
is(scalar(requests('/ok/moving')), $before, 'and nothing was sent');
$node->append_conf('postgresql.conf', 'cdi.egress_allow_private = on');
$node->reload;

# ---- kill -9 at every step ----

# read and sent in part, no answer yet
destination('killed', url('hold/killed'), batch_size => 1);
sync('killed', $good);
ok(wait_until(sub { requests('/hold/killed') >= 1 }), 'some rows are at the receiver, some only read');
kill_push_worker($node);
# answered, and not written: somebody has the table
my $holder = $node->background_psql('shop');
$holder->query_safe('BEGIN; LOCK TABLE cdi.sync_rows IN SHARE MODE');
append_to_file("$requests_file.release", '');
until_sql(q(SELECT count(*) = 1 FROM cdi.push_waits JOIN cdi.syncs USING (sync_id) WHERE name = 'killed'), 'answers come');
is(acknowledged('killed'), 0, 'and are not recorded');
kill_push_worker($node);
eval { $holder->quit };
ended('killed', 20, 'killed before and after the answer: every row ends');
# written
until_sql(q(SELECT count(*) = 0 FROM cdi.outbox o JOIN cdi.push_cursor c USING (sync_id) JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'killed' AND o.position > c.position), 'and is written');
my $sent = requests('/hold/killed');
kill_push_worker($node);
sleep 0.5;
is(scalar(requests('/hold/killed')), $sent, 'what is written is not sent again');
my (%keys, %rows);
for my $request (requests('/hold/killed'))
{
	my $row = $json->decode($request->{body})->[0];
	$rows{ $row->{primary_key} } = 1;
	$keys{ $row->{idempotency_key} } = $row->{primary_key};
}
is(scalar(keys %rows), 20, 'every row was sent');
is(scalar(keys %keys), 20, 'under one idempotency key, however often');
is(acknowledged('killed'), 20, 'and is acknowledged');
is(dead('killed'), '', 'and none is dead');

# ---- one destination does not wait for another ----

sub seconds_for
{
	my ($name) = @_;
	my $started = time;

	sync($name, 'SELECT n AS id FROM generate_series(1, 4000) n');
	ended($name, 4000);
	return time - $started;
}

destination($_, url("ok/$_"), batch_size => 10) for qw(alone beside);
my $alone = seconds_for('alone');
destination('d_dead', 'http://127.0.0.1:1/', batch_size => 10);
destination('d_slow', url('slow/a'), batch_size => 10);
destination('d_busy', url('throttle/a'), batch_size => 10);
unlink "$requests_file.release";
destination('d_silent', url('hold/a'), batch_size => 10);
sync($_, 'SELECT n AS id FROM generate_series(1, 3000) n') for qw(d_dead d_slow d_busy d_silent);
my $beside = seconds_for('beside');
is(acknowledged('d_dead') + acknowledged('d_silent'), 0, 'one destination waits neither for a dead one nor for one that does not answer');
# Again where the machine had something else to do
for my $round (1 .. 5)
{
	last if $beside < 2 * $alone + 2;
	destination("beside$round", url("ok/beside$round"), batch_size => 10);
	$beside = seconds_for("beside$round");
}
cmp_ok($beside, '<', 2 * $alone + 2, sprintf('beside these, a slow and a busy one: %.1f s, alone %.1f s', $beside, $alone));
append_to_file("$requests_file.release", '');
sql(qq(SELECT cdi_disable_destination('$_'))) for qw(d_dead d_slow d_busy d_silent);

# Fifty destinations with backlogs of 1 to 50 batches: the small ones do not wait for the large.
sql(sprintf(q(SELECT cdi_create_destination('f' || n, settings => '{"url": "%s", "batch_size": 10}') FROM generate_series(1, 50) n), url('ok/fair')));
sql(q(SELECT cdi_create_sync('f' || n, 'f' || n, format('SELECT n AS id FROM generate_series(1, %s) n', n * 10), 'id') FROM generate_series(1, 50) n));
sql(q(DO $$BEGIN PERFORM cdi_sync_run('f' || n) FROM generate_series(50, 1, -1) n; END$$));
until_sql(q(SELECT count(*) = 12750 FROM cdi.sync_rows r JOIN cdi.syncs s USING (sync_id) WHERE s.name ~ '^f[0-9]'), 'fifty destinations');
cmp_ok(sql(q(SELECT corr(n, finished) FROM (SELECT substr(s.name, 2)::int AS n, extract(epoch FROM max(d.sent_at))::float8 AS finished FROM cdi.deliveries d JOIN cdi.syncs s USING (sync_id) WHERE s.name ~ '^f[0-9]' GROUP BY 1) x)),
	'>', 0.5, 'end in the order of their backlogs');

# ---- retention ----

# Midnight may come while this runs.
my $today = sql(q(SELECT date_trunc('day', now() AT TIME ZONE 'UTC')::date));
sql(q(
	SELECT cdi._ensure_partition(parent, now() - n * interval '1 day') FROM unnest('{outbox,deliveries}'::text[]) parent, unnest('{6,9,10,29,32}'::int[]) n;
	SELECT cdi_disable_destination('alone');
	INSERT INTO cdi.deliveries (sent_at, sync_id, destination_id, attempt, rows, accepted, primary_keys, class, idempotency_key)
		SELECT now() - n * interval '1 day', 1, 1, 1, 1, 1, '{1}', 'ok', 'k' FROM unnest('{29,32}'::int[]) n;
	INSERT INTO cdi.sync_runs (run_id, sync_id, started_at) SELECT -n, s.sync_id, now() - n * interval '1 day' FROM cdi.syncs s, unnest('{29,32,33}'::int[]) n WHERE s.name = 'alone';
	INSERT INTO cdi.sync_runs (run_id, sync_id, started_at) VALUES (-100, 1000, now() - interval '90 days');
	INSERT INTO cdi.outbox SELECT c.position - 1, now() - interval '10 days', c.sync_id, 0, 'insert', 'old', md5('')::uuid, md5('')::uuid, '{}' FROM cdi.push_cursor c JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'alone';
	INSERT INTO cdi.outbox SELECT c.position + 1, now() - interval '9 days', c.sync_id, 0, 'insert', 'waits', md5('')::uuid, md5('')::uuid, '{}' FROM cdi.push_cursor c JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'alone'));
my $holds = $node->background_psql('shop');
$holds->query_safe('BEGIN; SELECT count(*) FROM cdi.deliveries');
is(sql('SELECT cdi._drop_expired()'), 'f', 'where somebody reads, dropping waits for another time, and not for him');
$holds->query_safe('COMMIT');
$holds->quit;
# the keeper's own doing
$node->restart;
until_sql(q(SELECT count(*) = 0 FROM cdi.deliveries WHERE sent_at < now() - interval '31 days'), 'deliveries past their retention are gone');
sub days { return sql(qq(SELECT string_agg(('$today' - to_date(right(inhrelid::regclass::text, 10), 'YYYY_MM_DD'))::text, ' ' ORDER BY inhrelid::regclass::text) FROM pg_inherits WHERE inhparent = 'cdi.$_[0]'::regclass AND inhrelid::regclass::text !~ 'default' AND to_date(right(inhrelid::regclass::text, 10), 'YYYY_MM_DD') < '$today')); }
is(days('deliveries'), '29 10 9 6', 'and what is younger is there');
is(days('outbox'), '9 6', 'outbox: rows that have ended are gone, one that waits keeps its day');
is(sql(q(SELECT string_agg(run_id::text, ' ' ORDER BY run_id) FROM cdi.sync_runs WHERE run_id < 0)), '-100 -29', 'old runs are gone, but for the newest of each sync');
sql(q(UPDATE cdi.push_cursor c SET position = position + 1 FROM cdi.syncs s WHERE s.sync_id = c.sync_id AND s.name = 'alone'));
is(sql('SELECT cdi._drop_expired()'), 't', 'once it has ended');
is(days('outbox'), '6', 'its day goes');
$node->append_conf('postgresql.conf', "cdi.activate_outbox_retention = '1d'\ncdi.activate_deliveries_retention = -1");
$node->reload;
sleep 0.3;
is(sql('SELECT cdi._drop_expired()'), 't', 'settings');
is(days('outbox') . '/' . days('deliveries'), '/29 10 9 6', 'are what counts, and -1 keeps all');

# ---- all of it ----

is(sql('SELECT bool_and(attempted = ok + rejected + retryable) FROM cdi.sync_runs'), 't', 'the attempts of every run add up');
is(sql(q(SELECT count(*) FROM cdi.outbox o JOIN cdi.syncs s USING (sync_id) JOIN cdi.destinations d USING (destination_id) JOIN cdi.push_cursor c USING (sync_id)
	WHERE o.position <= c.position AND o.run_id > 0
	AND NOT EXISTS (SELECT FROM cdi.sync_rows r WHERE r.sync_id = o.sync_id AND r.primary_key = o.primary_key)
	AND NOT EXISTS (SELECT FROM cdi.failed_deliveries f WHERE f.sync_id = o.sync_id AND f.primary_key = o.primary_key))), 0,
	'every row that has ended is acknowledged or a dead letter');

$_->kill_kill for @receivers;
$node->stop;
done_testing();
