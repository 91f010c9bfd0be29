# A server that cannot store for a while, and a source that may not, while
# clients post: docs/faults.md.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

use CdiLoad;

# Little WAL in store: a new segment is needed soon.
my $node = load_setup('shortage', disk_full => 1, conf => "min_wal_size = 32MB\nwal_recycle = off\n");

sub fill_disk
{
	my ($pattern) = @_;

	append_to_file($ENV{DISK_FULL}, "$pattern\n");
}

under_load('lock', 'lock on cdi.events', sub {
	my $session = $node->background_psql('shop');

	$session->query_safe('BEGIN');
	$session->query_safe('LOCK TABLE cdi.events IN ACCESS EXCLUSIVE MODE');
	my $before = counted('cdi_collector_answers_total{class="5xx"');
	ok(wait_until(sub { counted('cdi_collector_answers_total{class="5xx"') > $before }), 'nothing can be stored');
	$session->query_safe('ROLLBACK');
	$session->quit;
}, statuses => { 503 => 1 }, retries => 1);

under_load('data', 'disk full for data', sub {
	fill_disk('/base/');
	ok(wait_until(sub { !collecting() }), 'the collector says that it cannot store');
	sleep 1;
	unlink $ENV{DISK_FULL};
}, load => [ '--events', 5 ], statuses => { 503 => 1 }, retries => 1);

# Without room for WAL the server stops.  It comes back when there is room.
under_load('wal', 'disk full for WAL', sub {
	fill_disk('/pg_wal/');
	ok(wait_until(sub { !collecting() }), 'the collector stops storing');
	sleep 1;
	unlink $ENV{DISK_FULL};
	server_comes_back() or die 'the server does not come back';
}, retries => 1);

under_load('source', 'source disabled in use', sub {
	my $before = counted('cdi_collector_refused_keys_total');
	$node->safe_psql('shop', q(SELECT cdi_disable_source('web')));
	ok(wait_until(sub { counted('cdi_collector_refused_keys_total') > $before }), 'its events are refused');
	$node->safe_psql('shop', q(SELECT cdi_enable_source('web')));
}, statuses => { 401 => 1 }, refused => 401);

$node->stop;
done_testing();
