# kill -9 of the push worker at each step of an action of several stages, for
# rows and for events: each arrives under one key, and is counted once.
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
my ($node, $receiver, $port, $requests_file) = push_node('kills', 'receiver.py', q(
restart_after_crash = on
cdi.activate_retry_delay = '20ms'
));

sub sql
{
	return $node->safe_psql('shop', $_[0]);
}

sub requests
{
	my ($stage) = @_;
	return grep { $_->{path} =~ m{^/gate/$stage(/|$)} } received($requests_file);
}

sub open_gate { append_to_file("$requests_file.$_[0]", ''); }

# Until more than n requests of a stage have come
sub until_requests
{
	my ($stage, $n, $what) = @_;
	wait_until(sub { requests($stage) > $n });
	cmp_ok(scalar(requests($stage)), '>', $n, $what);
	return scalar(requests($stage));
}

my $post = sub { return { method => 'POST', url => "{{settings.base}}/gate/$_[0]", timeout => '1min', body => { format => 'json', template => { '@items' => '*' } } } };
sql(sprintf(q{SELECT cdi_install_destination_spec($spec$%s$spec$)}, $json->encode({
	'$schema' => 'cdi-dest-1', name => 'job', version => '1', settings => { type => 'object', properties => { base => { type => 'string' } } },
	actions => { job => { ops => [ 'insert', 'update' ], map => { row => { id => { '@first' => [ { '@path' => '$.id' }, { '@path' => '$.messageId' } ] }, key => '{{item.key}}' } }, batch => { max_items => 5 },
		steps => [ { name => 'create', request => $post->('create'), extract => { id => { '@path' => '$.id' } } } ],
		request => $post->('main/{{step.create.id}}'),
		then => [ { name => 'wait', request => { method => 'GET', url => '{{settings.base}}/gate/poll' }, poll => { every => '50ms', until => { eq => [ '$.state', 'done' ] } } } ] } } })));
sql(qq(SELECT cdi_create_destination('job', 'job', '{"base": "http://127.0.0.1:$port"}')));

for my $kind (qw(rows events))
{
	unlink glob("$requests_file.*");
	my ($create, $main, $poll) = map { scalar requests($_) } qw(create main poll);
	my $table = $kind eq 'rows' ? 'sync_rows' : 'event_stream_counts';
	my $accepted = $kind eq 'rows' ? q(SELECT count(*) FROM cdi.sync_rows) : q(SELECT ok FROM cdi.stat_event_streams);
	if ($kind eq 'rows')
	{
		sql(q(SELECT cdi_create_sync('rows', 'job', 'SELECT n AS id FROM generate_series(1, 20) n', 'id'); SELECT cdi_sync_run('rows')));
	}
	else
	{
		sql(q(SELECT cdi_drop_sync('rows'), cdi_create_event_stream('events', 'job')));
		sql(q(SELECT count(cdi_track('u' || n, 'E', message_id => 'e' || n)) FROM generate_series(1, 20) n));
	}

	$create = until_requests('create', $create, "$kind: the first stage is on its way");
	kill_push_worker($node);
	$create = until_requests('create', $create, "$kind: after kill -9 it begins again");
	is(scalar(requests('main')), $main, "$kind: and what comes after waits for it");
	open_gate('create');
	$main = until_requests('main', $main, "$kind: the request itself is on its way");
	kill_push_worker($node);
	until_requests('create', $create, "$kind: after kill -9 it begins with the first stage");
	$main = until_requests('main', $main, "$kind: and goes on");
	open_gate($_) for qw(main poll);
	$poll = until_requests('poll', $poll + 3, "$kind: a job is asked about");
	kill_push_worker($node);
	$main = until_requests('main', $main, "$kind: after kill -9 the job is begun again");
	is(sql($accepted), '0', "$kind: nothing is acknowledged");

	# done, and not written: somebody has the table
	my $holder = $node->background_psql('shop');
	$holder->query_safe("BEGIN; LOCK TABLE cdi.$table IN SHARE MODE");
	open_gate('done');
	ok($node->poll_query_until('shop', q(SELECT count(*) > 0 FROM cdi.push_waits)), "$kind: the last answers are there, and cannot be written");
	kill_push_worker($node);
	eval { $holder->quit };
	ok($node->poll_query_until('shop', "SELECT ($accepted) = 20"), "$kind: in the end all are acknowledged");
	ok($node->poll_query_until('shop', q(SELECT bool_and(in_flight_requests = 0) FROM cdi.stat_destinations)), "$kind: nothing is on its way");
	$main = requests('main');
	kill_push_worker($node);
	sleep 0.5;
	is(scalar(requests('main')), $main, "$kind: what is written is not sent again");
	my %keys;
	for my $item (map { @{ $json->decode($_->{body}) } } requests('main'))
	{
		$keys{ $item->{row}->{id} }->{ $item->{row}->{key} } = 1 if ($item->{row}->{id} =~ /^e/) == ($kind eq 'events');
	}
	is(scalar(keys %keys), 20, "$kind: each has arrived");
	is(scalar(grep { keys %$_ != 1 } values %keys), 0, "$kind: under one key, however often");
	is(sql('SELECT count(*) FROM cdi.failed_deliveries'), '0', "$kind: none is dead");
}
is(sql(q(SELECT matched || ' ' || seen || ' ' || ok FROM cdi.stat_event_streams)), '20 20 20', 'events are counted once');

$receiver->kill_kill;
$node->stop;
done_testing();
