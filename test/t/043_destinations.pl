# Built-in destinations from end to end, against a server that answers as the
# vendors document it: each of their ways to say that one row of several failed.
use strict;
use warnings;

use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use CdiPush;

my $json = JSON::PP->new->utf8->canonical;
my $port = PostgreSQL::Test::Cluster::get_free_port();
my $node = PostgreSQL::Test::Cluster->new('destinations');

$node->init;
my $requests_file = $node->basedir . '/requests.jsonl';
my $secrets = $node->basedir . '/secrets';
mkdir $secrets;
append_to_file("$secrets/$_", "$_-s3cret\n") for qw(tiktok meta google linkedin mixpanel customerio slack developer client refresh);
append_to_file("$secrets/wrong", "nobody-s3cret\n");
$node->append_conf('postgresql.conf', qq(
shared_preload_libraries = 'cdi'
fsync = off
max_worker_processes = 32
cdi.activate_retry_delay = '20ms'
cdi.activate_retry_max_delay = '200ms'
cdi.secret_directory = '$secrets'
cdi.egress_allow_private = on
));
$node->start;

append_to_file($requests_file, '');
my $vendors = start_receiver('vendors.py', $port, $requests_file);

sub sql
{
	return $node->safe_psql('shop', $_[0]);
}

# Requests to a vendor, as they came
sub requests
{
	my ($vendor) = @_;
	return grep { $_->{vendor} eq $vendor } received($requests_file);
}

sub start
{
	my ($name, $spec, $settings, $action, $model) = @_;
	$settings->{api_url} = "http://127.0.0.1:$port/$name" unless exists $settings->{api_url};
	delete $settings->{api_url} unless defined $settings->{api_url};
	sql(sprintf(q{SELECT cdi_create_destination('%s', '%s', '%s')}, $name, $spec, $json->encode($settings)));
	sql("SELECT cdi_create_sync('$name', '$name', \$\$$model\$\$, 'id', action => '$action')");
	sql("SELECT cdi_sync_run('$name')");
}

# How the rows of a sync ended: acknowledged, and the dead letters with their reasons
sub ended
{
	my ($name, $acknowledged, $dead) = @_;
	my $rows = "SELECT count(*) FROM cdi.sync_rows r JOIN cdi.syncs s USING (sync_id) WHERE s.name = '$name'";
	my $letters = "SELECT coalesce(string_agg(f.primary_key || ' ' || f.class || ' ' || f.error, '; ' ORDER BY f.primary_key), '') FROM cdi.failed_deliveries f JOIN cdi.syncs s USING (sync_id) WHERE s.name = '$name'";

	$node->poll_query_until('shop', "SELECT ($rows) = $acknowledged AND ($letters) = '$dead'");
	is(sql($rows), $acknowledged, "$name: rows are acknowledged");
	is(sql($letters), $dead, "$name: the row that was refused is a dead letter, with the reason");
}

$node->safe_psql('postgres', 'CREATE DATABASE shop');
sql('CREATE EXTENSION cdi');
sql('SELECT cdi_init()');
sql('SELECT cdi_arm()');
sql(q(CREATE TABLE orders (id integer PRIMARY KEY, email text, event_name text, event_time timestamptz, value numeric, currency text);
	INSERT INTO orders SELECT n, CASE n WHEN 5 THEN 'bad@example.com' ELSE 'c' || n || '@example.com' END, 'Purchase', '2026-01-01T00:00:00Z', 19.99, 'EUR' FROM generate_series(1, 8) n));

# ---- an error in a 200, a wait in a 200, and failed events by their place ----

start('tiktok', 'tiktok-events', { pixel_code => 'P', access_token => 'file:tiktok' }, 'event', 'SELECT * FROM orders');
ended('tiktok', 7, '5 rejected email is not known');
my @tiktok = requests('tiktok');
is(scalar(@tiktok), 2, 'tiktok: too many requests in a 200 is waited for, and one row of eight costs no halving');
is($tiktok[1]{body}{data}[0]{properties}{value}, 19.99, 'tiktok: the value is as it was');
is(scalar(@{ $tiktok[1]{body}{data} }), 8, 'tiktok: all rows are in one request');

# ---- counted, and not named: halved until it is found; removed rows are taken out ----

start('meta', 'meta-custom-audiences', { audience_id => '99', access_token => 'file:meta' }, 'member', 'SELECT * FROM orders');
ended('meta', 7, '5 rejected 1 of 1 entries are invalid: {}');
cmp_ok(scalar(requests('meta')), '==', 7, 'meta: eight, two of four, two of two, two of one');
sql('DELETE FROM orders WHERE id = 8');
sql("SELECT cdi_sync_run('meta')");
ended('meta', 6, '5 rejected 1 of 1 entries are invalid: {}');
my ($delete) = grep { $_->{method} eq 'DELETE' } requests('meta');
is(scalar(@{ $delete->{body}{payload}{data} }), 1, 'meta: who is gone is taken out, with the particulars that were sent');

# ---- a job of four requests, with an access token ----

my $url = "http://127.0.0.1:$port/google";
start('google', 'google-customer-match', { customer_id => '1', user_list_id => '2', developer_token => 'file:developer', client_id => 'us', client_secret => 'file:client', refresh_token => 'file:refresh', token_url => "$url/token" },
	'member', 'SELECT * FROM orders');
ended('google', 6, '5 rejected The SHA256 encoded value is malformed.');
is(join(' ', map { $_->{path} =~ m{([^/:]+)$} } requests('google')), 'token create addOperations run search', 'google: a token, a job, its rows, its start, its state');

# ---- a status per element; 400 with the others stored; 207 ----

start('linkedin', 'linkedin-conversions', { conversion_id => '1', access_token => 'file:linkedin' }, 'conversion', 'SELECT * FROM orders');
ended('linkedin', 6, '5 rejected no such member');
is(scalar(requests('linkedin')), 1, 'linkedin: one request');
start('mixpanel', 'mixpanel', { token => 't', project_id => '1', service_account => 'sa', service_secret => 'file:mixpanel' }, 'event', 'SELECT id, email, event_name, event_time, id AS user_id FROM orders');
ended('mixpanel', 6, '5 rejected properties.email: is not valid');
is(scalar(requests('mixpanel')), 1, 'mixpanel: what was stored is not sent again');
start('customerio', 'customerio', { site_id => 's', api_key => 'file:customerio' }, 'person', 'SELECT id, id AS external_id, email FROM orders');
ended('customerio', 6, '5 rejected invalid attributes: email');

# ---- one message per request ----

start('slack', 'slack', { token => 'file:slack', channel => 'C1' }, 'message', q(SELECT id, CASE id WHEN 5 THEN 'bad' ELSE 'hello' END AS text FROM orders WHERE id IN (4, 5)));
ended('slack', 1, '5 rejected msg_too_long');

# ---- settings that are wrong: the destination pauses, no row pays ----

my $offset = -s $node->logfile;
sql(sprintf(q{SELECT cdi_alter_destination('tiktok', '%s')}, $json->encode({ pixel_code => 'P', access_token => 'file:wrong', api_url => "http://127.0.0.1:$port/tiktok" })));
sql("UPDATE orders SET value = 20 WHERE id = 1");
sql("SELECT cdi_sync_run('tiktok')");
$node->wait_for_log(qr/destination "tiktok" pauses/, $offset);
is(sql(q(SELECT count(*) FROM cdi.failed_deliveries f JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'tiktok' AND f.primary_key = '1')), '0', 'tiktok: a token that is refused in a 200 costs no row');

# ---- where requests may go ----

# The list of hosts holds for everything but the setting that says otherwise:
# a row cannot lead a request elsewhere.
my $spec = $json->decode(sql("SELECT spec FROM cdi.destination_specs WHERE name = 'slack'"));
$spec->{name} = 'led-astray';
$spec->{tests} = [];
$spec->{actions} = { message => $spec->{actions}{message} };
$spec->{default_action} = 'message';
$spec->{actions}{message}{meta} = { host => { '@path' => '$.host' } };
$spec->{actions}{message}{request}{url} = 'http://{{meta.host}}/slack/api/chat.postMessage';
sql("SELECT cdi_install_destination_spec(\$json\$" . $json->encode($spec) . "\$json\$::jsonb)");
my $before = scalar(requests('slack'));
start('astray', 'led-astray', { token => 'file:slack', channel => 'C1', api_url => undef }, 'message', "SELECT 1 AS id, 'hello' AS text, '127.0.0.1:$port' AS host");
ok($node->poll_query_until('shop', q(SELECT count(*) = 1 FROM cdi.failed_deliveries f JOIN cdi.syncs s USING (sync_id)
	WHERE s.name = 'astray' AND f.class = 'invalid' AND f.error ~ 'does not allow this host')), 'a host that is not in the list is refused');
is(scalar(requests('slack')), $before, 'and nothing goes there');

my $log = slurp_file($node->logfile);
unlike($log, qr/s3cret/, 'no secret is in the log');
unlike(sql('SELECT string_agg(d::text, E\'\n\') FROM cdi.deliveries d'), qr/s3cret/, 'nor in what is recorded');

$vendors->kill_kill;
$node->stop;
done_testing();
