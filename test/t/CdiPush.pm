# A server whose push worker sends to a receiver of the test's own.  How long
# anything takes is nobody's business here: what a test needs, it waits for.
package CdiPush;

use strict;
use warnings;

use Exporter 'import';
use IO::Socket::INET;
use IPC::Run ();
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

use CdiWait;

our @EXPORT = qw(push_node start_receiver received wait_until push_pid kill_push_worker);

# script: of test/lib.  It listens when this returns.
sub start_receiver
{
	my ($script, $port, @arguments) = @_;
	my ($in, $out, $err) = ('', '', '');
	my $process;

	wait_until(sub {
		# The port may be somebody else's for a moment.
		$process = IPC::Run::start([ 'python3', "$ENV{CDI_ROOT}/test/lib/$script", $port, @arguments ],
			'<', \$in, '>', \$out, '2>', \$err)
		  unless $process && $process->pumpable;
		$process->pump_nb;
		return $process->pumpable && IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Proto => 'tcp');
	}) or die "$script does not listen on port $port: $err";
	return $process;
}

# Requests of a receiver's file, each parsed once
my %files;

sub received
{
	my ($file) = @_;
	my $known = $files{$file} //= { read => 0, requests => [] };
	my $json = JSON::PP->new->utf8;

	open(my $in, '<', $file) or die "$file: $!";
	seek($in, $known->{read}, 0);
	while (defined(my $line = <$in>))
	{
		# the rest of it is being written
		last if $line !~ /\n\z/;
		$known->{read} += length $line;
		push @{ $known->{requests} }, $json->decode($line);
	}
	return @{ $known->{requests} };
}

# The node with an armed database "shop", the receiver, its port, and the file
# with what it got; kill_kill() ends the receiver.
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
	my $receiver = start_receiver($script, $port, $requests_file);
	$node->safe_psql('postgres', 'CREATE DATABASE shop');
	$node->safe_psql('shop', $_) for 'CREATE EXTENSION cdi', 'SELECT cdi_init()', 'SELECT cdi_arm()';
	return ($node, $receiver, $port, $requests_file);
}

# Of the database "shop", also while the server recovers
sub push_pid
{
	my ($node, $not) = @_;

	return wait_until(sub {
		my $pid = try_sql($node, 'postgres', q(SELECT pid FROM pg_stat_activity WHERE application_name = 'cdi push' AND datname = 'shop'));

		return $pid && $pid ne ($not // '') ? $pid : 0;
	}) || die 'there is no push worker';
}

# kill -9, until the server has restarted with another worker
sub kill_push_worker
{
	my ($node) = @_;
	my $pid = push_pid($node);

	# It may have ended since we looked.
	$pid = push_pid($node, $pid) until kill 'KILL', $pid;
	return push_pid($node, $pid);
}

1;
