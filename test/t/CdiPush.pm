# A server whose push worker sends to a receiver of the test's own.
package CdiPush;

use strict;
use warnings;

use Exporter 'import';
use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

our @EXPORT = qw(push_node);

my ($in, $out, $err) = ('', '', '');

# script: of test/lib.  The node with an armed database "shop", the receiver, its
# port, and the file with what it got; kill_kill() ends the receiver.
sub push_node
{
	my ($name, $script, $conf) = @_;
	my $port = PostgreSQL::Test::Cluster::get_free_port();
	my $node = PostgreSQL::Test::Cluster->new($name);
	$node->init;
	my $requests_file = $node->basedir . '/requests.jsonl';
	append_to_file($requests_file, '');
	$node->append_conf('postgresql.conf', "shared_preload_libraries = 'cdi'\nfsync = off\nmax_worker_processes = 32\ncdi.egress_allow_private = on\n$conf");
	$node->start;
	my $receiver = IPC::Run::start([ 'python3', "$ENV{CDI_ROOT}/test/lib/$script", $port, $requests_file ],
		'<', \$in, '>', \$out, '2>', \$err);
	$node->safe_psql('postgres', 'CREATE DATABASE shop');
	$node->safe_psql('shop', $_) for 'CREATE EXTENSION cdi', 'SELECT cdi_init()', 'SELECT cdi_arm()';
	return ($node, $receiver, $port, $requests_file);
}

1;
