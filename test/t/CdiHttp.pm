# HTTP for the tests: small enough to say exactly what goes over the wire.
package CdiHttp;

use strict;
use warnings;

use Exporter 'import';
use IO::Socket::INET;
use JSON::PP;
use MIME::Base64;
use PostgreSQL::Test::Cluster;
use Time::HiRes qw(sleep time);

use CdiWait;

our @EXPORT = qw(http_connect http_send http_read http_raw http_post http_get
  http_wait http_metric http_sockets collector_set basic collector_node);

my $json = JSON::PP->new->utf8->allow_nonref;

# A server of whose databases one collects: the node, the port and the database
sub collector_node
{
	my ($name, $conf) = @_;
	my $db = 'cdi_test';
	my $port = PostgreSQL::Test::Cluster::get_free_port();
	my $node = PostgreSQL::Test::Cluster->new($name);
	$node->init(extra => [ '--encoding=UTF8', '--no-locale' ]);
	$node->append_conf('postgresql.conf', "shared_preload_libraries = 'cdi'\ncdi.collector_port = $port\n$conf");
	$node->start;
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, 'CREATE EXTENSION cdi; SELECT cdi_init()');
	return ($node, $port, $db);
}

# Give the only collector of a database another setting: it starts anew with it,
# so that nobody has to guess when a reload has come to it.
sub collector_set
{
	my ($node, $port, $db, $name, $value) = @_;
	my $pid = "SELECT pid FROM cdi.workers WHERE kind = 'collector' AND state = 'running'";
	my $old = $node->safe_psql($db, $pid);
	$node->safe_psql('postgres', "ALTER DATABASE $db SET $name = '$value'");
	wait_until(sub { my $new = $node->safe_psql($db, $pid); $new ne '' && $new ne $old }) && http_wait($port)
	  or die "the collector does not start with $name = $value";
}

# A connection; the caller may keep it for several requests.
sub http_connect
{
	my ($port) = @_;
	my $socket = IO::Socket::INET->new(
		PeerAddr => '127.0.0.1',
		PeerPort => $port,
		Proto => 'tcp',
		Timeout => LIMIT) or die "cannot connect to port $port: $!";
	$socket->autoflush(1);
	binmode $socket;
	return $socket;
}

sub basic
{
	my ($user) = @_;
	return (Authorization => 'Basic ' . encode_base64($user, ''));
}

# Write one request.  Content-Length is added where there is a body.
sub http_send
{
	my ($socket, $method, $path, $headers, $body) = @_;
	my %headers = (Host => 'localhost', %{ $headers || {} });
	$headers{'Content-Length'} = length $body
	  if defined $body
	  && !exists $headers{'Content-Length'}
	  && !exists $headers{'Transfer-Encoding'};
	my $request = "$method $path HTTP/1.1\r\n";
	$request .= "$_: $headers{$_}\r\n" for sort keys %headers;
	$request .= "\r\n";
	$request .= $body if defined $body;
	local $SIG{PIPE} = 'IGNORE';
	print $socket $request;
}

# Read one answer: {status, headers (lower case), body, json}; undef where the
# server closed the connection without one or said nothing in time.
sub http_read
{
	my ($socket, $timeout) = @_;
	my $buffer = '';
	my $end = time + ($timeout || LIMIT);
	my $answer;

	my $more = sub {
		my $vector = '';
		vec($vector, fileno($socket), 1) = 1;
		my $left = $end - time;
		return 0 if $left <= 0 || !select($vector, undef, undef, $left);
		return sysread($socket, $buffer, 65536, length $buffer) ? 1 : 0;
	};
	while (1)
	{
		if ($buffer =~ s/\A(HTTP\/1\.1 (\d+)[^\r\n]*\r\n(?:[^\r\n]+\r\n)*\r\n)//)
		{
			my ($head, $status) = ($1, $2);
			next if $status == 100;
			$answer = { status => $status, headers => {} };
			$answer->{headers}{ lc $1 } = $2
			  while $head =~ /^([^:\r\n]+):[ ]*([^\r\n]*)\r$/mg;
			last;
		}
		return undef unless $more->();
	}
	my $length = $answer->{headers}{'content-length'} || 0;
	while (length $buffer < $length)
	{
		return undef unless $more->();
	}
	$answer->{body} = substr $buffer, 0, $length;
	$answer->{json} = eval { $json->decode($answer->{body}) };
	die "more came than one answer: " . substr($buffer, $length)
	  if length $buffer > $length;
	return $answer;
}

# Bytes as they are, then one answer.
sub http_raw
{
	my ($port, $bytes, $timeout) = @_;
	my $socket = http_connect($port);
	local $SIG{PIPE} = 'IGNORE';
	print $socket $bytes;
	return http_read($socket, $timeout);
}

# One request on a connection of its own.  A body that is no string is JSON.
sub http_post
{
	my ($port, $path, $headers, $body) = @_;
	my $socket = http_connect($port);
	http_send($socket, 'POST', $path, $headers, ref $body ? $json->encode($body) : $body);
	return http_read($socket);
}

sub http_get
{
	my ($port, $path, $headers) = @_;
	my $socket = http_connect($port);
	http_send($socket, 'GET', $path, $headers);
	return http_read($socket);
}

# Until something listens there; false after a while.
sub http_wait
{
	my ($port) = @_;
	return wait_until(sub {
		my $answer = eval { http_get($port, '/health') };
		return $answer && $answer->{status} == 200;
	});
}

# Sum of a number of /metrics over all collectors
sub http_metric
{
	my ($port, $name) = @_;
	my $sum = 0;
	$sum += $_ for http_get($port, '/metrics')->{body} =~ /^\Q$name\E(?:\{[^}]*\})? (\S+)$/mg;
	return $sum;
}

# How many sockets listen on a port, as the kernel says
sub http_sockets
{
	my ($port) = @_;
	my $hex = sprintf ':%04X', $port;
	my $number = 0;
	for my $path ('/proc/net/tcp', '/proc/net/tcp6')
	{
		open my $file, '<', $path or next;
		$number += grep { my @field = split ' '; $field[1] =~ /$hex$/ && $field[3] eq '0A' } <$file>;
	}
	return $number;
}

1;
