# Built-in destinations from a table to a server that answers as the vendor's
# documentation says (test/lib/crm_vendor.py), which checks what it is given.
use strict;
use warnings;

use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use CdiPush;

my $json = JSON::PP->new->utf8;
my $port = PostgreSQL::Test::Cluster::get_free_port();
my $vendor_url = "http://127.0.0.1:$port";
my $node = PostgreSQL::Test::Cluster->new('crm');

$node->init;
my $secrets = $node->basedir . '/secrets';
mkdir $secrets;
my %secret = (sfs => 'sf-s3cret', sfr => 'sf-r3fresh', hs => 'pat-s3cret', braze => 'braze-s3cret', mk => 'mk-s3cret', s3 => 'wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY');
append_to_file("$secrets/$_", "$secret{$_}\n") for keys %secret;
run_log([ 'openssl', 'genpkey', '-quiet', '-algorithm', 'RSA', '-pkeyopt', 'rsa_keygen_bits:2048', '-out', "$secrets/bq" ]);
run_log([ 'openssl', 'pkey', '-in', "$secrets/bq", '-pubout', '-out', $node->basedir . '/bq.pub' ]);
chmod 0400, glob "$secrets/*";
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

my $vendor = start_receiver('crm_vendor.py', $port, $node->basedir . '/bq.pub');

sub sql
{
	return $node->safe_psql('shop', $_[0]);
}

sub state
{
	my ($text) = run_command([ 'curl', '-s', "$vendor_url/state" ]);
	return $json->decode($text);
}

sub sync
{
	my ($name, $type, $settings, $action, $model, $key) = @_;
	$settings = $json->encode($settings);
	sql("SELECT cdi_create_destination('$name', '$type', '$settings')");
	sql("SELECT cdi_create_sync('$name', '$name', \$\$$model\$\$, '$key', action => '$action')");
	done($name);
}

# Runs the sync, until none of its rows is on its way.
sub done
{
	my ($name) = @_;
	my $ran = sql("SELECT cdi_sync_run('$name')");
	ok($node->poll_query_until('shop', qq(
		SELECT NOT EXISTS (SELECT FROM cdi.outbox o JOIN cdi.syncs s USING (sync_id) LEFT JOIN cdi.push_cursor c USING (sync_id)
		WHERE s.name = '$name' AND o.position > coalesce(c.position, 0)))), "rows of $name have ended")
	  or diag(sql(qq(SELECT d.class, d.status, d.error FROM cdi.deliveries d JOIN cdi.syncs s USING (sync_id) WHERE s.name = '$name' ORDER BY sent_at DESC LIMIT 10)));
}

sub failed
{
	my ($name) = @_;
	return sql(qq(SELECT f.primary_key || ' ' || f.class || ' ' || f.error FROM cdi.failed_deliveries f JOIN cdi.syncs s USING (sync_id) WHERE s.name = '$name' ORDER BY f.primary_key));
}

sub acknowledged
{
	my ($name) = @_;
	return sql(qq(SELECT count(*) FROM cdi.sync_rows r JOIN cdi.syncs s USING (sync_id) WHERE s.name = '$name'));
}

$node->safe_psql('postgres', 'CREATE DATABASE shop');
sql('CREATE EXTENSION cdi');
sql('SELECT cdi_init()');
sql('SELECT cdi_arm()');
sql(q(CREATE TABLE people (id text, last_name text, email text);
	INSERT INTO people SELECT n::text, 'L' || n, 'p' || n || '@example.com' FROM generate_series(1, 250) n));

# ---- Salesforce: a flag for each record ----

my $salesforce = { instance_url => $vendor_url, login_url => $vendor_url, client_id => 'us', client_secret => 'file:sfs', refresh_token => 'file:sfr', object => 'Contact', external_id => 'Ext__c' };
sql(q(UPDATE people SET last_name = 'Locked' WHERE id = '7'; UPDATE people SET last_name = 'Twin' WHERE id = '8'));
sync('sf', 'salesforce', $salesforce, 'records', 'SELECT id AS "Ext__c", last_name AS "LastName" FROM people', 'Ext__c');
is(failed('sf'), '8 rejected DUPLICATES_DETECTED: Use one of these records?', 'the record that is refused is a dead letter');
is(acknowledged('sf'), '249', 'others are acknowledged, also the one that was locked');
is(scalar(keys %{ state()->{sf} }), 249, 'and Salesforce has them');
sql(q(DELETE FROM people WHERE id::int > 200));
done('sf');
is(acknowledged('sf'), '199', 'those that are gone are deleted');
is(scalar(keys %{ state()->{sf} }), 199, 'there, too: 25 at a time');

# ---- Salesforce: a job ----

sql(q(UPDATE people SET last_name = '' WHERE id = '9'; UPDATE people SET last_name = 'A "b", c' WHERE id = '10'));
sync('bulk', 'salesforce', $salesforce, 'bulk', 'SELECT id AS "Ext__c", last_name AS "LastName", NULLIF(email, \'p11@example.com\') AS "Email" FROM people', 'Ext__c');
is(failed('bulk'), '9 rejected REQUIRED_FIELD_MISSING:Required fields are missing: [LastName]:LastName --', 'the failed row of a job is found by its external id');
is(acknowledged('bulk'), '199', 'the others are acknowledged');
my $state = state();
is(scalar(keys %{ $state->{jobs} }), 1, 'one job for all');
is($state->{sf}{10}{LastName}, 'A "b", c', 'CSV is quoted');

# ---- HubSpot ----

sql(q(UPDATE people SET email = 'nobody' WHERE id = '3'; UPDATE people SET last_name = 'Mute' WHERE id = '4'));
sync('hs', 'hubspot', { access_token => 'file:hs', api_url => $vendor_url }, 'objects', q(SELECT email, last_name AS firstname FROM people), 'email');
like(failed('hs'), qr/^nobody rejected .*Email address nobody is invalid.*\np4\@example\.com rejected .*Email address p4\@example\.com is invalid/, 'who is refused is found, by trace id or by halving');
is(acknowledged('hs'), '198', 'the others are acknowledged');
sql(q(DELETE FROM people WHERE id IN ('5', '6')));
done('hs');
is(scalar(keys %{ state()->{hubspot} }), 196, 'those that are gone are archived');

# who is not there is found out by a request before, and the others become members
sql(q(CREATE TABLE fans AS SELECT email FROM people WHERE id::int BETWEEN 7 AND 16 UNION ALL SELECT 'stranger@example.com'));
sync('hslist', 'hubspot', { access_token => 'file:hs', api_url => $vendor_url, list_id => '12' }, 'list', 'SELECT email FROM fans', 'email');
is(failed('hslist'), 'stranger@example.com rejected there is no such object', 'who is not there cannot become a member');
is(acknowledged('hslist'), '10', 'the others are acknowledged');
is(scalar(@{ state()->{hubspot_list} }), 10, 'and members');
sql(q(DELETE FROM fans WHERE email IN ('p7@example.com', 'p8@example.com', 'stranger@example.com')));
done('hslist');
is(join(' ', @{ state()->{hubspot_list} }), join(' ', sort map { "h-p$_\@example.com" } 9 .. 16), 'members whose rows are gone are taken out');

# ---- Braze ----

sync('braze', 'braze', { api_key => 'file:braze', api_url => $vendor_url }, 'track',
	q(SELECT id, CASE WHEN id::int % 2 = 0 THEN 'track' END AS type, CASE WHEN id IN ('20', '80') THEN 'bad' WHEN id::int % 2 = 0 THEN 'ordered' END AS event, 'u' || id AS "userId",
	  CASE WHEN id::int % 2 = 0 THEN '2026-03-01T10:00:00Z' END AS timestamp FROM people), 'id');
is(failed('braze'), "20 rejected 'name' is blocked\n80 rejected 'name' is blocked", 'errors are found by list and index, of events among attributes');
$state = state();
is(scalar(@{ $state->{braze}{events} }), 97, 'events are there');
is(scalar(@{ $state->{braze}{attributes} }), 99, 'and attributes');
ok((grep { $_->{events} && $_->{attributes} } @{ $state->{braze_sizes} }) > 0, 'together in a request');
sql(q(DELETE FROM people WHERE id::int <= 120));
done('braze');
is(scalar(@{ state()->{deleted} }), 118 - 2, 'users whose rows are gone are deleted, in requests of 50');

# ---- BigQuery ----

sync('bq', 'bigquery', { project => 'p-1', dataset => 'crm', table => 'people', client_email => 'cdi@p-1.iam.gserviceaccount.com', private_key => 'file:bq', api_url => $vendor_url, token_url => "$vendor_url/token" }, 'append',
	q(SELECT id, last_name, CASE id WHEN '130' THEN 'x' END AS emial FROM people), 'id');
is(acknowledged('bq'), '0', 'a column that the table has not is refused of every row, null or not');
sql(q(SELECT cdi_drop_sync('bq'); SELECT cdi_drop_destination('bq')));
sync('bq', 'bigquery', { project => 'p-1', dataset => 'crm', table => 'people', client_email => 'cdi@p-1.iam.gserviceaccount.com', private_key => 'file:bq', api_url => $vendor_url, token_url => "$vendor_url/token" }, 'append',
	q(SELECT id, last_name, 12345678901234567890 AS big FROM people), 'id');
is(acknowledged('bq'), '80', 'rows are acknowledged');
$state = state();
is(scalar(keys %{ $state->{bigquery} }), 80, 'and there');
is(scalar(@{ $state->{tokens} }), 2, 'with one access token each, for a JWT that was signed with the service account\'s key');

# ---- S3 ----

my $s3 = { bucket => 'lake', region => 'eu-central-1', access_key => 'AKIDEXAMPLE', secret_key => 'file:s3', api_url => "$vendor_url/bucket/", prefix => 'a b/+c/' };
sync('s3', 's3', $s3, 'ndjson', q(SELECT id, last_name, CASE WHEN id::int <= 150 THEN '2026-02-28T10:00:00Z' ELSE '2026-03-01T10:00:00Z' END AS timestamp FROM people), 'id');
is(acknowledged('s3'), '80', 'rows are acknowledged');
my $objects = state()->{s3};
is(join(' ', map { s/[0-9a-f]{64}/KEY/r } sort keys %$objects), '/bucket/a b/+c/dt=2026-02-28/KEY.ndjson /bucket/a b/+c/dt=2026-03-01/KEY.ndjson', 'in an object per day');
is(scalar(map { split /\n/ } map { @$_ } values %$objects), 80, 'a line per row');
sync('s3z', 's3', { %$s3, gzip => JSON::PP::true, prefix => 'z/' }, 'csv', q(SELECT id, last_name FROM people), 'id');
my ($object) = grep { m{/z/} } keys %{ $objects = state()->{s3} };
like($object, qr/\.csv\.gz$/, 'compressed');
is((split /\n/, $objects->{$object}[0])[0], 'id,last_name', 'CSV with names');

# ---- Marketo: every failure is within a 200 ----

sql(q(CREATE TABLE leads AS SELECT CASE n WHEN 9 THEN 'nobody' ELSE 'm' || n || '@example.com' END AS email FROM generate_series(1, 10) n));
my $marketo = { api_url => $vendor_url, client_id => 'us', client_secret => 'file:mk', list_id => '1001' };
sync('mk', 'marketo', $marketo, 'lead', 'SELECT email FROM leads', 'email');
is(failed('mk'), 'nobody rejected 1003: Value for field email is not valid', 'a lead that is skipped is a dead letter');
is(acknowledged('mk'), '9', 'the others are acknowledged');
run_command([ 'curl', '-s', '-d', 'grant_type=client_credentials&client_id=us&client_secret=mk-s3cret', "$vendor_url/identity/oauth/token" ]);
sync('mklist', 'marketo', $marketo, 'list', 'SELECT email FROM leads', 'email');
is(failed('mklist'), 'nobody rejected 1003: Value for field email is not valid', 'nor can it become a member');
is(scalar(@{ state()->{marketo_list} }), 9, 'the others do');
run_command([ 'curl', '-s', '-d', 'grant_type=client_credentials&client_id=us&client_secret=mk-s3cret', "$vendor_url/identity/oauth/token" ]);
sql(q(DELETE FROM leads WHERE email IN ('m1@example.com', 'm2@example.com')));
done('mklist');
is(scalar(@{ state()->{marketo_list} }), 7, 'members whose rows are gone are taken out, with a new access token');
is(scalar(keys %{ state()->{marketo} }), 9, 'and stay leads');
done('mk');
is(join(' ', sort keys %{ state()->{marketo} }), join(' ', sort map { "m$_\@example.com" } 3 .. 8, 10), 'until they are deleted, by their ids');

# ---- an access token that is refused after it had worked ----

run_command([ 'curl', '-s', '-d', 'grant_type=refresh_token&client_id=us&client_secret=sf-s3cret&refresh_token=sf-r3fresh', "$vendor_url/services/oauth2/token" ]);
sql(q(UPDATE people SET last_name = 'New' WHERE id = '200'));
done('sf');
is(state()->{sf}{200}{LastName}, 'New', 'INVALID_SESSION_ID: a new session is asked for');

is_deeply(state()->{wrong}, [], 'no vendor was given anything wrong');
my $log = slurp_file($node->logfile);
unlike($log, qr/s3cret|r3fresh|PRIVATE KEY|bPxRfiCY/, 'no secret is in the log');

$vendor->kill_kill;
$node->stop;
done_testing();
