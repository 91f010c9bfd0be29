# Waiting for a state: as long as a slow machine may need, and no longer than
# it takes.  What a test concludes must not depend on how fast anything is.
package CdiWait;

use strict;
use warnings;

use Exporter 'import';
use Time::HiRes qw(sleep time);

our @EXPORT = qw(LIMIT wait_until try_sql sql_becomes crash);

# Seconds after which something that has not happened never will
use constant LIMIT => 180;

# What the condition has returned as soon as that is true; else 0
sub wait_until
{
	my ($condition) = @_;
	my $end = time + LIMIT;

	while (1)
	{
		my $got = $condition->();

		return $got if $got;
		return 0 if time > $end;
		sleep 0.05;
	}
}

# The answer, or undef where there is none now.  psql that ends before it has
# read its input (no server) makes IPC::Run die.
sub try_sql
{
	my ($node, $database, $sql) = @_;
	my ($status, $value) = eval { $node->psql($database, $sql) };

	return defined $status && $status == 0 ? $value : undef;
}

# As poll_query_until(), also while the server restarts
sub sql_becomes
{
	my ($node, $database, $sql, $expected) = @_;
	my $last;

	return 1 if wait_until(sub {
		$last = try_sql($node, $database, $sql);
		return defined $last && $last eq ($expected // 't');
	});
	Test::More::diag("$sql\nlast said: " . ($last // 'nothing'));
	return 0;
}

# kill -9 of the process whose pid the query says, once there is one, and wait
# until the server has ended all the others: who asks earlier may be answered by
# one of them.  The pid, or false.
sub crash
{
	my ($node, $query, $database) = @_;
	my $offset = -s $node->logfile;
	my $pid = wait_until(sub {
		my $now = try_sql($node, $database // 'postgres', $query);
		# It may have ended by itself since it was found.
		return defined $now && $now =~ /^\d+$/ && kill('KILL', $now) ? $now : 0;
	});

	return $pid && eval { $node->wait_for_log(qr/all server processes terminated; reinitializing/, $offset) } ? $pid : 0;
}

1;
