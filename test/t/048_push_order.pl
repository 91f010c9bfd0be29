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
cdi.activate_retry_delay = '300ms'
cdi.activate_retry_max_delay = '600ms'
));

sub sql
{
	return $node->safe_psql('shop', $_[0]);
}

# Rows of each request whose path begins like this, in the order of their arrival
sub requests
{
	my ($path) = @_;
	return map { [ map { $_->{row} } @{ $json->decode($_->{body}) } ] } grep { index($_->{path}, $path) == 0 } map { $json->decode($_) } split /\n/, slurp_file($requests_file);
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
sql(q(INSERT INTO orders (customer, n, kind) VALUES ('a', 1, 'flaky'), ('b', 1, 'ok'); SELECT cdi_sync_run('spec')));
sql(q(INSERT INTO orders (customer, n, kind) VALUES ('a', 2, 'ok'), ('b', 2, 'ok'), ('c', 1, 'ok'); SELECT cdi_sync_run('spec')));
sql(q(INSERT INTO orders (customer, n, kind) VALUES ('a', 3, 'ok'), ('c', 2, 'ok'); SELECT cdi_sync_run('spec')));
acknowledged('spec', 4, 'rows of other keys go');
is(sequences('/ok/spec'), 'b:1,2 c:1,2', 'and none of the key whose first row has failed');
acknowledged('spec', 7, 'once it goes through');
is(sequences('/ok/spec'), 'a:2,3 b:1,2 c:1,2', 'the others follow in order');
is(scalar(requests('/flaky/spec')), 4, 'after all of its attempts');
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
