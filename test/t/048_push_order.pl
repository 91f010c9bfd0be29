# Rows and events in order by a key: what failed or is in flight holds back what
# comes after it under its key, and nothing else.
use strict;
use warnings;

use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

use FindBin;
use lib $FindBin::RealBin;
use CdiPush;

my $json = JSON::PP->new->utf8;
my ($node, $receiver, $port, $requests_file) = push_node('order', 'receiver.py', q(
restart_after_crash = on
cdi.activate_retry_delay = '300ms'
cdi.activate_retry_max_delay = '600ms'
cdi.activate_retry_limit = 10000
));

sub sql
{
	return $node->safe_psql('shop', $_[0]);
}

# Rows of each request whose path begins like this, in the order of their arrival
sub requests
{
	my ($path) = @_;
	return map { [ map { $_->{row} } @{ $json->decode($_->{body}) } ] } grep { index($_->{path}, $path) == 0 } received($requests_file);
}

# The sequence of n that each customer's rows came in, repetitions dropped
sub sequences
{
	my %seen;
	my %order;
	for my $row (map { @$_ } requests(@_))
	{
		push @{ $order{ $row->{customer} } }, $row->{n} unless $seen{"$row->{customer}/$row->{n}"}++;
	}
	return join ' ', map { "$_:" . join ',', @{ $order{$_} } } sort keys %order;
}

# Requests that have two rows of a customer
sub mixed
{
	return scalar grep { my %n; $n{ $_->{customer} }++ for @$_; grep { $_ > 1 } values %n } requests(@_);
}

sub acknowledged
{
	my ($name, $n, $what) = @_;
	ok($node->poll_query_until('shop', "SELECT count(*) = $n FROM cdi.sync_rows r JOIN cdi.syncs s USING (sync_id) WHERE s.name = '$name'"), $what);
}

sql('CREATE TABLE orders (id serial, customer text, n int, kind text)');

# ---- a specification asks for it ----

sql(sprintf(q{SELECT cdi_install_destination_spec($spec$%s$spec$)}, $json->encode({
	'$schema' => 'cdi-dest-1', name => 'ordered', version => '1', settings => { type => 'object', properties => { base => { type => 'string' } } },
	actions => { a => { ops => [ 'insert', 'update' ], group_by => { '@path' => '$.kind' }, batch => { max_items => 10, order_key => { '@path' => '$.customer' } },
		map => { row => { customer => { '@path' => '$.customer' }, n => { '@path' => '$.n' } } },
		request => { method => 'POST', url => '{{settings.base}}/{{batch.group}}/spec', body => { format => 'json', template => { '@items' => '*' } } } } } })));
sql(qq(SELECT cdi_create_destination('spec', 'ordered', '{"base": "http://127.0.0.1:$port"}')));
sql(q(SELECT cdi_create_sync('spec', 'spec', 'SELECT * FROM orders', 'id', mode => 'append')));
sql(q(INSERT INTO orders (customer, n, kind) VALUES ('a', 1, 'until'), ('b', 1, 'ok'); SELECT cdi_sync_run('spec')));
sql(q(INSERT INTO orders (customer, n, kind) VALUES ('a', 2, 'ok'), ('b', 2, 'ok'), ('c', 1, 'ok'); SELECT cdi_sync_run('spec')));
sql(q(INSERT INTO orders (customer, n, kind) VALUES ('a', 3, 'ok'), ('c', 2, 'ok'); SELECT cdi_sync_run('spec')));
acknowledged('spec', 4, 'rows of other keys go');
is(sequences('/ok/spec'), 'b:1,2 c:1,2', 'and none of the key whose first row has failed');
ok(wait_until(sub { requests('/until/spec') > 1 }), 'which is tried again');
is(sequences('/ok/spec'), 'b:1,2 c:1,2', 'and holds them back');
append_to_file("$requests_file.spec", '');
acknowledged('spec', 7, 'until it goes through');
is(sequences('/ok/spec'), 'a:2,3 b:1,2 c:1,2', 'the others follow in order');
is(mixed('/ok/spec'), 0, 'one of each key per request');

# ---- a sync asks for it ----

sql(sprintf(q{SELECT cdi_create_destination('%s', settings => '{"url": "http://127.0.0.1:%s/flaky/%s", "batch_size": 10}')}, $_, $port, $_)) for qw(sync plain later stream person);
sql(q(TRUNCATE orders));
sql(q(SELECT cdi_create_sync('sync', 'sync', 'SELECT * FROM orders', 'id', mode => 'append', order_key => '{"@path": "$.customer"}')));
sql(q(SELECT cdi_create_sync('plain', 'plain', 'SELECT * FROM orders', 'id', mode => 'append')));
sql(q(SELECT cdi_create_sync('later', 'later', 'SELECT * FROM orders', 'id', mode => 'append'), cdi_disable_destination('later')));
is(sql(q(SELECT order_key FROM cdi.syncs WHERE name = 'sync')), '{"@path": "$.customer"}', 'a sync says by what');
is(sql(q(INSERT INTO orders (customer, n) SELECT c, n FROM unnest('{a,b,c}'::text[]) c, generate_series(1, 2) n; SELECT count(DISTINCT request) || ' ' || count(*) FROM cdi_sync_preview('sync'))), '2 2', 'a preview has a request for each of a key');
sql('TRUNCATE orders');
sql(q(SELECT cdi_enable_destination('later'), cdi_sync_pause('later')));
for my $n (1 .. 5)
{
	sql("INSERT INTO orders (customer, n) SELECT c, $n FROM unnest('{a,b,c}'::text[]) c; SELECT cdi_sync_run('sync')");
	sql("SELECT cdi_sync_resume('$_'), cdi_sync_run('$_'), cdi_sync_pause('$_')") for qw(plain later);
}
acknowledged('sync', 15, 'through failures');
is(mixed('/flaky/sync'), 0, 'one of each key per request');
is(sequences('/flaky/sync'), 'a:1,2,3,4,5 b:1,2,3,4,5 c:1,2,3,4,5', 'and in order');
sql(q(SELECT cdi_sync_resume('plain')));
acknowledged('plain', 15, 'where nobody asks');
cmp_ok(mixed('/flaky/plain'), '>', 0, 'rows share requests');
sql(q(SELECT cdi_alter_sync('later', order_key => '{"@path": "$.customer"}'), cdi_sync_resume('later')));
acknowledged('later', 15, 'where it is asked while rows wait');
is(mixed('/flaky/later'), 0, 'it holds for those');
is(sequences('/flaky/later'), 'a:1,2,3,4,5 b:1,2,3,4,5 c:1,2,3,4,5', 'too');
sql(q(SELECT cdi_alter_sync('sync', order_key => '{}')));
is(sql(q(SELECT count(order_key) FROM cdi.syncs WHERE name = 'sync')), '0', 'it can be taken away');

# ---- through kill -9 ----

sub destination
{
	my ($name, $path, $mode) = @_;
	sql(qq(SELECT cdi_create_destination('$name', settings => '{"url": "http://127.0.0.1:$port/$path", "batch_size": 10}')));
	sql(qq(SELECT cdi_create_sync('$name', '$name', 'SELECT * FROM orders', 'id', mode => '$mode', order_key => '{"\@path": "\$.customer"}')));
}

sub until_requests
{
	my ($path, $n, $what) = @_;
	wait_until(sub { requests($path) >= $n });
	is(scalar(requests($path)), $n, $what);
}

sql('TRUNCATE orders');
destination('killed', 'hold/killed', 'append');
for my $n (1 .. 4)
{
	sql("INSERT INTO orders (customer, n) SELECT c, $n FROM unnest('{a,b,c}'::text[]) c; SELECT cdi_sync_run('killed')");
}
until_requests('/hold/killed', 1, 'the first of each key are at the receiver, which does not answer');
kill_push_worker($node);
until_requests('/hold/killed', 2, 'the worker is killed: another sends them again');
is(sequences('/hold/killed'), 'a:1 b:1 c:1', 'and nothing that comes after them');
append_to_file("$requests_file.release", '');
acknowledged('killed', 12, 'once they are accepted the others go');
is(sequences('/hold/killed'), 'a:1,2,3,4 b:1,2,3,4 c:1,2,3,4', 'in order');
is(mixed('/hold/killed'), 0, 'one of each key per request');

# ---- through halves ----

sql('TRUNCATE orders; ALTER TABLE orders ADD bad boolean');
destination('halved', 'reject/halved', 'append');

sql(q(SELECT cdi_sync_pause('halved')));
for my $n (1 .. 3)
{
	sql("INSERT INTO orders (customer, n, bad) SELECT c, $n, (c, $n) IN (('b', 2), ('e', 1)) FROM unnest('{a,b,c,d,e}'::text[]) c;
		SELECT cdi_sync_resume('halved'), cdi_sync_run('halved'), cdi_sync_pause('halved')");
}
sql(q(SELECT cdi_sync_resume('halved')));
acknowledged('halved', 13, 'a request that is refused is halved');
ok($node->poll_query_until('shop', q(SELECT string_agg(payload ->> 'customer' || (payload ->> 'n'), ' ' ORDER BY f.position) = 'e1 b2' FROM cdi.failed_deliveries f JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'halved')), 'until the bad rows are alone');
my %times;
my $time = 0;
for my $request (requests('/reject/halved')) { $time++; push @{ $times{"$_->{customer}$_->{n}"} }, $time for @$request; }
is(join(' ', grep { my ($c, $n) = /(.)(.)/; my $next = $times{ $c . ($n + 1) }; $next && $next->[0] <= $times{$_}->[-1] } sort keys %times), '', 'what comes after a row waits for the last of its attempts');
cmp_ok(scalar(@{ $times{'b2'} }), '>', 1, 'of which there are several');

# ---- one key in the destination, two primary keys here ----

sql(q(CREATE TABLE accounts (id integer, email text); INSERT INTO accounts SELECT n + 100, 'p' || n FROM generate_series(1, 30) n));
sql(qq(SELECT cdi_create_destination('accounts', settings => '{"url": "http://127.0.0.1:$port/ok/accounts", "batch_size": 10}')));
sql(q(SELECT cdi_create_sync('accounts', 'accounts', 'SELECT * FROM accounts', 'id', order_key => '{"@path": "$.email"}'), cdi_sync_run('accounts')));
acknowledged('accounts', 30, 'accounts are sent');
sql(qq(SELECT cdi_alter_destination('accounts', '{"url": "http://127.0.0.1:$port/flaky/accounts", "batch_size": 10}')));
sql(q(UPDATE accounts SET id = id - 100; SELECT cdi_sync_run('accounts')));
ok($node->poll_query_until('shop', q(SELECT max(r.primary_key::int) = 30 AND count(*) = 30 FROM cdi.sync_rows r JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'accounts')), 'they get other primary keys');
my %account;
for my $row (map { @{ $json->decode($_->{body}) } } grep { $_->{path} eq '/flaky/accounts' } received($requests_file))
{
	push @{ $account{ $row->{row}->{email} } }, $row->{operation} unless @{ $account{ $row->{row}->{email} } // [] } && $account{ $row->{row}->{email} }->[-1] eq $row->{operation};
}
is(join(' ', keys %{ { map { join(',', @$_) => 1 } values %account } }), 'delete,insert', 'each is deleted before it is inserted');

# ---- events ----

sql(q(SELECT cdi_install_destination_spec(jsonb_set(jsonb_set(jsonb_set(spec, '{name}', '"ordered_events"'), '{actions,a,batch,order_key}', '{"@path": "$.userId"}'), '{actions,a}',
	((spec #> '{actions,a}') - 'group_by') || '{"batch": {"max_items": 10, "order_key": {"@path": "$.userId"}}, "map": {"row": {"customer": {"@path": "$.userId"}, "n": {"@path": "$.properties.n"}}}}'::jsonb)
	#- '{tests}') FROM cdi.destination_specs WHERE name = 'ordered'));
sql(q(UPDATE cdi.destination_specs SET spec = jsonb_set(spec, '{actions,a,request,url}', '"{{settings.base}}/flaky/events"') WHERE name = 'ordered_events'));
sql(qq(SELECT cdi_create_destination('events', 'ordered_events', '{"base": "http://127.0.0.1:$port"}')));
sql(q(SELECT cdi_create_event_stream('events', 'events')));
sql(q(SELECT count(cdi_track('u' || n % 3, 'Step', jsonb_build_object('n', n), message_id => 'e' || n)) FROM generate_series(1, 30) n));
ok($node->poll_query_until('shop', q(SELECT ok = 30 FROM cdi.stat_event_streams WHERE stream = 'events')), 'events of a specification that asks for an order');
is(mixed('/flaky/events'), 0, 'one of each key per request');
is(sequences('/flaky/events'), join(' ', map { my $u = $_; "u$u:" . join ',', grep { $_ % 3 == $u } 1 .. 30 } 0 .. 2), 'and in order');

$receiver->kill_kill;
$node->stop;
done_testing();
