# The push worker sleeps while there is nothing that it may send, however much
# waits: how often it wakes is counted by the kernel.
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
my ($node, $receiver, $port, $requests_file) = push_node('rest', 'hostile.py', q(
autovacuum = off
cdi.activate_retry_delay = '50ms'
cdi.activate_retry_max_delay = '10min'
));

sub sql
{
	return $node->safe_psql('shop', $_[0]);
}

# How often the worker has gone to sleep
sub sleeps
{
	my $pid = push_pid($node);
	return (slurp_file("/proc/$pid/status") =~ /^voluntary_ctxt_switches:\s+(\d+)/m)[0];
}

# A specification of our own
sub install
{
	my ($name, $limits, $timeout) = @_;
	sql(qq(SELECT cdi_install_destination_spec('{"\$schema": "cdi-dest-1", "name": "$name", "version": "1", "limits": $limits, "settings": {"type": "object", "properties": {"url": {"type": "string"}}},
		"actions": {"a": {"ops": ["insert"], "map": {"\@path": "\$"}, "request": {"method": "POST", "timeout": "$timeout", "url": "{{settings.url}}", "body": {"format": "ndjson"}}}}}')));
}

# A destination with a backlog; it sends once it is enabled
sub backlog
{
	my ($name, $url, $spec) = @_;
	sql(sprintf(q{SELECT cdi_create_destination('%s', '%s', '%s')}, $name, $spec // 'webhook', $json->encode({ url => $url, $spec ? () : (batch_size => 10) })));
	sql(qq(SELECT cdi_create_sync('$name', '$name', 'SELECT 1 AS id', 'id', mode => 'append'), cdi_disable_destination('$name');
		INSERT INTO cdi.outbox SELECT nextval('cdi.outbox_position'), now(), s.sync_id, 0, 'insert', n::text, md5(n::text)::uuid, md5(n::text)::uuid, '{"id": 1}' FROM cdi.syncs s, generate_series(1, 20000) n WHERE s.name = '$name';
		SELECT cdi_enable_destination('$name')));
}

sub until_true
{
	my ($query, $what) = @_;
	ok($node->poll_query_until('shop', "SELECT $query FROM cdi.stat_destinations"), $what) or diag(sql('TABLE cdi.stat_destinations'));
}

# Until it is at rest: three seconds in which it hardly wakes, which somebody who
# has something to do again and again never has.  A circuit is tried less and
# less often; libcurl wakes it once for each request in flight, when the time to
# connect is over.
sub rests
{
	my ($what, $in_flight) = @_;
	my $woken;
	ok(wait_until(sub {
		my $before = sleeps();
		sleep(3);
		$woken = sleeps() - $before;
		return $woken <= 2 + ($in_flight // 0);
	}), $what) or diag("woken $woken times in three seconds");
}

rests('with nothing to do it rests');

backlog('open', 'http://127.0.0.1:1/');
until_true(q(bool_or(open_since IS NOT NULL AND next_try_at > now() + interval '8 s') FILTER (WHERE destination = 'open')), 'a circuit is open');
rests('until it is tried again');
backlog('wait', "http://127.0.0.1:$port/wait");
until_true(q(bool_or(requests > 0 AND in_flight_requests = 0) FILTER (WHERE destination = 'wait')), 'a destination asks to be left alone');
backlog('denied', "http://127.0.0.1:$port/denied");
until_true(q(bool_or(paused_reason IS NOT NULL) FILTER (WHERE destination = 'denied')), 'one pauses for its settings');
install('hourly', '{"rate": {"requests": 1, "per": "1h"}}', '30s');
backlog('hourly', "http://127.0.0.1:$port/fine", 'hourly');
until_true(q(bool_or(ok = 1) FILTER (WHERE destination = 'hourly')), 'one gets a request in an hour');
backlog('paused', "http://127.0.0.1:$port/fine");
sql(q(SELECT cdi_sync_pause('paused')));
# longer than all that follows, which includes a pause of a circuit
install('patient', '{}', '10min');
backlog('late', "http://127.0.0.1:$port/hours", 'patient');
until_true(q(bool_or(in_flight_requests = 8) FILTER (WHERE destination = 'late')), 'one does not answer');
sql(q(SELECT cdi_create_event_stream('held', 'paused'), cdi_sync_pause('held'); SELECT count(cdi_track('u', 'E')) FROM generate_series(1, 1000)));
# the circuit has been tried a few times more
until_true(q(bool_or(next_try_at > now() + interval '8 s') FILTER (WHERE destination = 'open')), 'all at once');
rests('and it rests', 8);
is(sql('SELECT bool_and(waiting > 10000) FROM cdi.stat_destinations WHERE NOT destination = $$late$$'), 't', 'before a backlog of each');

$receiver->kill_kill;
$node->stop;
done_testing();
