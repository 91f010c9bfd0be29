# Events out as they come: by rule, at once, in order where asked, and none is
# lost or counted twice whatever happens on the way.
use strict;
use warnings;

use Digest::SHA qw(sha256_hex);
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use FindBin;
use lib $FindBin::RealBin;
use CdiPush;

my $json = JSON::PP->new->utf8->canonical;
my ($node, $receiver, $port, $requests_file) = push_node('events', 'receiver.py', q(
restart_after_crash = on
cdi.activate_retry_delay = '20ms'
cdi.activate_retry_max_delay = '100ms'
cdi.activate_retry_limit = 4
));

sub requests
{
	my ($path) = @_;
	return grep { $_->{path} eq $path } received($requests_file);
}

# Events with the time of their request
sub events
{
	return map { my $at = $_->{time}; map { { at => $at, key => $_->{idempotency_key}, %{ $_->{row} } } } @{ $json->decode($_->{body}) } } requests(@_);
}

sub ids
{
	return join ' ', map { $_->{messageId} } events(@_);
}

sub sql
{
	return $node->safe_psql('shop', $_[0]);
}

sub stream
{
	my ($name, $kind, $rules, $more) = @_;
	sql(sprintf(q{SELECT cdi_create_destination('%s', settings => '%s')}, $name,
			$json->encode({ url => "http://127.0.0.1:$port/$kind/$name", batch_size => 50 })));
	sql(sprintf(q{SELECT cdi_create_event_stream('%s', '%s', rules => '%s'%s)}, $name, $name, $json->encode($rules), $more // ''));
}

sub track
{
	my ($id, $event, $user, $properties, $context) = @_;
	sql(sprintf(q{SELECT cdi_ingest('%s')}, $json->encode({ type => 'track', event => $event, userId => $user, messageId => $id,
					properties => $properties // {}, context => $context // {} })));
}

sub until_true
{
	my ($query, $what) = @_;
	ok($node->poll_query_until('shop', $query), $what) or diag(sql('TABLE cdi.stat_event_streams'), sql('SELECT * FROM cdi.deliveries ORDER BY sent_at DESC LIMIT 5'));
}

# Until the stream is past everything there is
sub done
{
	my ($name) = @_;
	until_true(qq(SELECT position >= (SELECT coalesce(max(position), 0) FROM cdi.events) FROM cdi.stat_event_streams WHERE stream = '$name'), "$name has caught up");
}

sub counts
{
	my ($name) = @_;
	return sql("SELECT seen, matched, withheld, sampled_out, skipped, ok, dead_letters FROM cdi.stat_event_streams WHERE stream = '$name'");
}

track('before', 'Order Completed', 'u0');
until_true(q(SELECT position > 0 FROM cdi.watermark), 'the watermark passes an event');

# ---- rules ----

stream('all', 'ok', {});
stream('orders', 'ok', { types => ['track'], events => ['Order *'], sources => ['sql'] });
stream('consent', 'ok', { types => ['track'], consent => [ 'advertising', 'personal' ] });
stream('large', 'ok', { when => { gt => [ '$.properties.revenue', 100 ] } });
stream('history', 'ok', { events => ['Order *'] }, q{, start => 'beginning'});
# All at once: what goes in several requests may arrive in any order.
sql("SELECT cdi_sync_pause('$_')") for qw(all orders consent large history);
sql(q(SELECT cdi_ingest('{"type": "track", "event": "Order Completed", "userId": "u1", "messageId": "m1", "timestamp": "2026-01-31T12:00:00.250Z",
	"properties": {"revenue": 12345678901234567890, "tax": 19.90, "none": null}, "context": {"ip": "192.0.2.1"}, "integrations": {"All": true}}')));
track('m2', 'Order Cancelled', 'u1', { revenue => 5 }, { consent => { categoryPreferences => { advertising => JSON::PP::true, personal => JSON::PP::true } } });
track('m3', 'Viewed', 'u2', { revenue => 101 }, { consent => { categoryPreferences => { advertising => JSON::PP::true } } });
track('m4', 'Order_Completed', 'u2', {}, { globalPrivacyControl => JSON::PP::true, consent => { categoryPreferences => { advertising => JSON::PP::true, personal => JSON::PP::true } } });
track('m5', 'Viewed', 'u2', {}, { consent => { advertising => 'granted', personal => 'granted' } });
sql(q(SELECT cdi_ingest('{"type": "identify", "userId": "u1", "messageId": "m6", "traits": {"email": "ada@example.com"}}')));
sql("SELECT cdi_sync_resume('$_')") for qw(all orders consent large history);
done($_) for qw(all orders consent large history);
is(ids('/ok/all'), 'm1 m2 m3 m4 m5 m6', 'a stream without rules gets every event from its beginning on, in order');
is(ids('/ok/orders'), 'm1 m2', 'by type, name and source');
is(ids('/ok/history'), 'before m1 m2', 'from the beginning where asked');
is(ids('/ok/large'), 'm1 m3', 'by a condition');
is(ids('/ok/consent'), 'm2 m5', 'with consent to all that is asked for, and without an opt-out');
is(counts('consent'), '5|2|3|0|0|2|0', 'what consent withholds is counted');
is(counts('large'), '6|2|0|0|4|2|0', 'and what no condition wants');
my ($first) = events('/ok/all');
is($first->{receivedAt} =~ /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/ ? 1 : 0, 1, 'with the time of receipt');
is($first->{personId}, sql(q(SELECT coalesce(m.person_id, e.subject) FROM cdi.events e LEFT JOIN cdi.identity_map m ON m.identifier = e.subject WHERE message_id = 'm1')), 'and the person');
is(join('|', map { $first->{$_} } qw(type event userId timestamp source)), 'track|Order Completed|u1|2026-01-31T12:00:00.250Z|sql', 'an event has the shape of its SDK');
is($json->encode($first->{integrations}), '{"All":true}', 'with all that it came with');
like((requests('/ok/all'))[0]->{body}, qr/"tax": 19\.90, "none": null, "revenue": 12345678901234567890/, 'numbers and nulls are as they came');
my $sync_id = sql(q(SELECT sync_id FROM cdi.syncs WHERE name = 'all'));
my $event_id = sql(q(SELECT event_id FROM cdi.events WHERE message_id = 'm1'));
(my $key = substr(sha256_hex("$sync_id|$event_id"), 0, 32)) =~ s/^(.{8})(.{4})(.{4})(.{4})/$1-$2-$3-$4-/;
is($first->{key}, $key, 'the key goes by stream and event');

# ---- sampling ----

stream('sample', 'ok', { events => ['Sampled'], sample => 0.3 });
sql(q(SELECT count(cdi_track('p' || n % 200, 'Sampled', '{}', message_id => 's' || n)) FROM generate_series(1, 1000) n));
done('sample');
my @people = map { [ split /\|/ ] } split /\n/, sql(q(SELECT e.user_id, coalesce(m.person_id, e.subject)::text FROM cdi.events e LEFT JOIN cdi.identity_map m ON m.identifier = e.subject WHERE event = 'Sampled' GROUP BY 1, 2));
my @in = sort map { $_->[0] } grep { hex(substr(sha256_hex($_->[1]), 0, 13)) / 2**52 < 0.3 } @people;
my %got;
$got{ $_->{userId} }++ for events('/ok/sample');
is(join(' ', sort keys %got), join(' ', @in), 'those people are in the sample whose digest says so');
is(join(' ', sort { $a cmp $b } keys %{ { map { $_ => 1 } values %got } }), '5', 'with all of their events');
cmp_ok(abs(@in - 60), '<', 25, scalar(@in) . ' of 200 people at a rate of 0.3');

# ---- latency ----

stream('fast', 'ok', { events => ['Fast'] });
done('fast');
# From before the statement, each in a transaction of its own; again where the
# machine had something else to do.
my ($series, @ms) = (0);
ok(wait_until(sub {
	$series++;
	sql(join "\n", map { "SELECT cdi_track('u$_', 'Fast', jsonb_build_object('sent', extract(epoch FROM clock_timestamp())), message_id => 'f$series-$_');\nSELECT pg_sleep(0.01);" } 1 .. 200);
	$node->poll_query_until('shop', q(SELECT ok = matched AND position >= (SELECT max(position) FROM cdi.events) FROM cdi.stat_event_streams WHERE stream = 'fast')) or return 0;
	@ms = sort { $a <=> $b } map { 1000 * ($_->{at} - $_->{properties}->{sent}) } grep { $_->{messageId} =~ /^f$series-/ } events('/ok/fast');
	note(sprintf('commit to request: median %.1f ms, p99 %.1f ms, most %.1f ms of %d events', $ms[100], $ms[197], $ms[199], scalar(@ms)));
	return $ms[100] < 200;
}), 'the median from commit to request is below 200 ms');
is(scalar(@ms), 200, 'each once');

# ---- a dead destination, dead letters, replay ----

stream('dead', 'fail', { events => ['Fast*'] });
stream('rejecting', 'reject', { events => ['Graded'] }, q(, mapping => '{"messageId": {"@path": "$.messageId"}, "bad": {"@path": "$.properties.bad"}}'));
stream('silent', 'hold', { events => ['Fast*'] });
sql(q(SELECT count(cdi_track('d' || n, 'Faster', '{}', message_id => 'd' || n)) FROM generate_series(1, 20) n));
sql(q(SELECT count(cdi_track('g' || n, 'Graded', jsonb_build_object('bad', n IN (3, 7)), message_id => 'g' || n)) FROM generate_series(1, 10) n));
done('rejecting');
is(sql(q(SELECT in_flight_requests || ' ' || ok FROM cdi.stat_destinations WHERE destination = 'silent')), '1 0', 'one that does not answer does not hold up others');
append_to_file("$requests_file.release", '');
done('silent');
done('dead');
is(counts('dead'), '20|20|0|0|0|0|20', 'what ran out of attempts is a dead letter');
is(counts('rejecting'), '10|10|0|0|0|8|2', 'as is what was rejected');
is(sql(q(SELECT string_agg(f.payload ->> 'messageId', ' ' ORDER BY f.position) FROM cdi.failed_deliveries f JOIN cdi.syncs USING (sync_id) WHERE name = 'rejecting')), 'g3 g7', 'with the event as the action was to have it');
sql(sprintf(q{SELECT cdi_alter_destination('%s', '%s')}, $_, $json->encode({ url => "http://127.0.0.1:$port/ok/$_", batch_size => 50 }))) for qw(dead rejecting);
is(sql(q(SELECT cdi_replay_delivery(sync => 'dead'))), '20', 'dead letters are replayed');
is(sql(q(SELECT cdi_replay_delivery(ARRAY[(SELECT position FROM cdi.events WHERE message_id = 'g7')], 'rejecting'))), '1', 'or one of them');
until_true(q(SELECT sum(dead_letters) = 1 FROM cdi.stat_event_streams WHERE stream IN ('dead', 'rejecting')), 'and leave when they are accepted');
is(ids('/ok/dead'), join(' ', map { "d$_" } 1 .. 20), 'in their order');
my %before = map { $_->{messageId} => $_->{key} } events('/fail/dead');
is(join(' ', map { $_->{key} } events('/ok/dead')), join(' ', map { $before{"d$_"} } 1 .. 20), 'under the same keys');
is(counts('dead'), '20|20|0|0|0|20|0', 'and are counted as accepted');

# ---- order per person ----

sql(q(SELECT cdi_create_destination('flaky', settings => '{"url": "http://127.0.0.1:PORT/flaky/order", "batch_size": 3}')) =~ s/PORT/$port/r);
sql(q(SELECT cdi_create_event_stream('order', 'flaky', rules => '{"events": ["Step"], "order": "person"}')));
sql(q(SELECT count(cdi_track('o' || n % 5, 'Step', jsonb_build_object('n', n), message_id => 'o' || n)) FROM generate_series(1, 100) n));
done('order');
my %steps;
for my $request (requests('/flaky/order'))
{
	my %here;
	for my $row (@{ $json->decode($request->{body}) })
	{
		$here{ $row->{row}->{userId} }++;
		push @{ $steps{ $row->{row}->{userId} } }, $row->{row}->{properties}->{n};
	}
	fail('two events of a person in one request') if grep { $_ > 1 } values %here;
}
is(scalar(grep { my $s = $_; grep { $s->[$_] < $s->[ $_ - 1 ] } 1 .. $#$s } values %steps), 0, 'no event of a person is sent after a later one of theirs, through failures');
is(scalar(keys %{ { map { map { $_ => 1 } @$_ } values %steps } }), 100, 'and all are sent');

# ---- pause, change, reset ----

stream('changing', 'ok', { events => ['A'] });
sql(q(SELECT cdi_sync_pause('changing', 'not now')));
track('c1', 'A', 'u1');
sleep 0.3;
is(ids('/ok/changing'), '', 'a paused stream sends nothing');
sql(q(SELECT cdi_sync_resume('changing')));
done('changing');
is(ids('/ok/changing'), 'c1', 'and goes on where it was');
sql(q(SELECT cdi_alter_event_stream('changing', rules => '{"events": ["B"]}')));
track('c2', 'A', 'u1');
track('c3', 'B', 'u1');
done('changing');
is(ids('/ok/changing'), 'c1 c3', 'changed rules hold for what follows');
sql(q(SELECT cdi_sync_pause('changing')));
track('c4', 'B', 'u1');
until_true(q(SELECT position >= (SELECT max(position) FROM cdi.events) FROM cdi.watermark), 'the watermark goes on');
sql(q(SELECT cdi_sync_reset('changing')));
sql(q(SELECT cdi_sync_resume('changing')));
track('c5', 'B', 'u1');
done('changing');
is(ids('/ok/changing'), 'c1 c3 c5', 'reset passes over what waits');
sql(q(SELECT cdi_drop_sync('changing')));
is(sql(q(SELECT count(*) FROM cdi.event_stream_counts WHERE sync_id NOT IN (SELECT sync_id FROM cdi.syncs))), '0', 'a dropped stream leaves nothing');

# ---- kill -9 ----

stream('killed', 'ok', { events => ['Killed'] });
stream('sparse', 'ok', { events => ['Rare'] });
for my $round (1 .. 4)
{
	sql(qq(SELECT count(cdi_track('k' || n % 50, CASE WHEN n % 1000 = 0 THEN 'Rare' ELSE 'Killed' END, '{}', message_id => 'k$round-' || n)) FROM generate_series(1, 2000) n));
	sleep 0.02 * $round;
	ok(kill_push_worker($node), 'the push worker is back');
}
done($_) for qw(killed sparse);
my %keys;
$keys{ $_->{messageId} }->{ $_->{key} } = 1 for events('/ok/killed');
is(scalar(keys %keys), 8000 - 8, 'after kill -9 every event has arrived');
is(scalar(grep { keys %$_ != 1 } values %keys), 0, 'however often, under one key');
is(sql(q(SELECT matched || ' ' || seen FROM cdi.stat_event_streams WHERE stream = 'killed')), '7992 7992', 'and is counted once');
is(sql(q(SELECT matched FROM cdi.stat_event_streams WHERE stream = 'sparse')), '8', 'also where few are wanted');
is(scalar(keys %{ { map { $_->{messageId} => 1 } events('/ok/sparse') } }), 8, 'which arrive');

# ---- a specification whose actions change while nothing can be sent ----

sub install
{
	my ($actions, $wait, @required) = @_;
	my %actions = map { $_ => {
			when => { eq => [ '$.event', $actions->{$_} ] }, ops => ['insert'], map => { idempotency_key => { '@path' => 'item.key' }, row => { '@path' => '$' } },
			batch => { max_items => 100, $wait ? (max_wait => '1h') : () },
			request => { method => 'POST', url => "http://127.0.0.1:$port/ok/$_", body => { format => 'json', template => { '@items' => '*' } } },
			response => { rules => [ { when => { eq => [ 'status', 200 ] }, class => 'ok' } ] } } } keys %$actions;
	sql(sprintf(q{SELECT cdi_install_destination_spec('%s')}, $json->encode({ '$schema' => 'cdi-dest-1', name => 'shifting', version => '1',
					settings => { type => 'object', properties => { more => { type => 'string' } }, required => \@required }, actions => \%actions })));
}

install({ a => 'Shift A', b => 'Shift B' }, 1);
sql(q{SELECT cdi_create_destination('shifting', 'shifting'); SELECT cdi_create_event_stream('shifting', 'shifting', rules => '{"events": ["Shift *"]}')});
track('shift1', 'Shift A', 'u1');
track('shift2', 'Shift B', 'u1');
until_true(q(SELECT position >= (SELECT max(position) FROM cdi.events) FROM cdi.watermark), 'the watermark is past both');
sleep 0.5;
install({ a => 'Shift A', b => 'Shift B' }, 1, 'more');
$node->wait_for_log(qr/destination "shifting" cannot be used/);
install({ b => 'Shift B', c => 'Shift A' }, 0);
done('shifting');
is(join(' ', map { ids("/ok/$_") } qw(b c)), 'shift2 shift1', 'events that waited go to the actions that there are now');

# ---- what is no longer there ----

my $sent_before = scalar(events('/ok/killed'));
$node->restart;
track('after', 'Killed', 'u1');
done('killed');
is((events('/ok/killed'))[-1]->{messageId}, 'after', 'after a restart it goes on');
is(scalar(events('/ok/killed')), $sent_before + 1, 'and sends nothing again');
sql(q(SELECT cdi_sync_pause('killed')));
sql(q(SELECT count(cdi_track('k', 'Killed', '{}', message_id => 'gone' || n)) FROM generate_series(1, 20) n));
sql(q(DELETE FROM cdi.events WHERE message_id LIKE 'gone%'));
track('later', 'Killed', 'u1');
sql(q(SELECT cdi_sync_resume('killed')));
done('killed');
is((events('/ok/killed'))[-1]->{messageId}, 'later', 'events that were removed are passed over');

$receiver->kill_kill;
$node->stop;
done_testing();
