# TLS in the collector, and the collector behind nginx: as docs/collect.md has
# it.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use FindBin;
use lib $FindBin::RealBin;
use CdiHttp;
use CdiWait;

my $place = PostgreSQL::Test::Utils::tempdir();
my $sequence = 0;

# A certificate of its own authority; the file of the key is private.
sub certificate
{
	my ($name, $subject) = @_;
	system_or_bail('openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes',
		'-days', '2', '-subj', "/CN=$subject", '-addext', 'subjectAltName=DNS:localhost,IP:127.0.0.1',
		'-keyout', "$place/$name.key", '-out', "$place/$name.pem");
	chmod 0600, "$place/$name.key";
}

sub install
{
	my ($name) = @_;
	for my $kind ('pem', 'key')
	{
		system_or_bail('cp', "$place/$name.$kind", "$place/server.$kind.new");
		chmod 0600, "$place/server.$kind.new";
		rename "$place/server.$kind.new", "$place/server.$kind";
	}
}

certificate('first', 'first');
certificate('second', 'second');
install('first');

my ($node, $port, $db) = collector_node('tls', <<CONF);
cdi.collector_timeout = 3s
cdi.collector_tls_certificate = '$place/server.pem'
cdi.collector_tls_key = '$place/server.key'
CONF
my $key = $node->safe_psql($db, "SELECT cdi_create_source('web')");

sub sql
{
	return $node->safe_psql($db, $_[0]);
}

sub curl
{
	my ($out, $err);
	IPC::Run::run([ 'curl', '-sS', '--max-time', LIMIT, @_ ], '>', \$out, '2>', \$err);
	return $out ne '' ? $out : $err;
}

sub event
{
	$sequence++;
	return qq({"type":"track","event":"E","userId":"u","messageId":"t-$sequence"});
}

my @post = ('-u', "$key:", "https://localhost:$port/v1/track", '-d');
my $stored = '{"success":true,"received":1,"stored":1,"duplicate":0,"failed":0,"withheld":0}';

# Until the collector shows a certificate of this name.
sub shows
{
	my ($name) = @_;
	return wait_until(sub { curl('--cacert', "$place/$name.pem", "https://localhost:$port/health") eq '{"status":"ok"}' });
}

ok(shows('first'), 'the port speaks TLS');
is(curl('--cacert', "$place/first.pem", @post, event()), $stored, 'an event over TLS 1.3');
is(curl('--cacert', "$place/first.pem", '--tls-max', '1.2', @post, event()), $stored, 'an event over TLS 1.2');
like(curl('--cacert', "$place/first.pem", '--tls-max', '1.1', '--ciphers', 'DEFAULT:@SECLEVEL=0', @post, event()),
	qr/curl: \(35\)/, 'TLS 1.1 is refused');
unlike(curl("http://localhost:$port/health"), qr/status/, 'so is plain HTTP');
like(curl('--cacert', "$place/second.pem", @post, event()), qr/certificate/, 'nobody is taken in by another certificate');
my @many = map { ('--next', '--cacert', "$place/first.pem", '-s', '-u', "$key:", "https://localhost:$port/v1/track", '-d', event()) } 1 .. 5;
shift @many;
is(curl(@many), $stored x 5, 'five requests, one after the other');
{
	my $big = event();
	$big =~ s/}$/, "properties": {"a": "@{[ 'x' x 500_000 ]}"}}/;
	my $file = "$place/big.json";
	append_to_file($file, $big);
	is(curl('--cacert', "$place/first.pem", @post, "\@$file"), $stored, 'half a megabyte');
	is(curl('--cacert', "$place/first.pem", '-H', 'Transfer-Encoding: chunked', '-H', 'Expect: 100-continue', @post, event()), $stored, 'chunks');
}

#
# A renewed certificate, with a request in flight
#
{
	my $held = event();
	my $session = $node->background_psql($db);
	$session->query_safe('BEGIN');
	$session->query_safe("SELECT cdi_ingest('$held', 'web')");
	my ($out, $err) = ('', '');
	my $flight = IPC::Run::start([ 'curl', '-sS', '--max-time', LIMIT, '--retry', 60, '--cacert', "$place/first.pem", @post, $held ], '>', \$out, '2>', \$err);
	ok(wait_until(sub { curl('--cacert', "$place/first.pem", "https://localhost:$port/metrics") =~ /^cdi_collector_parked_requests\S* 1$/m }), 'a request waits');
	install('second');
	$node->reload;
	ok(shows('second'), 'a renewed certificate is used after a reload');
	$session->query_safe('COMMIT');
	$session->quit;
	$flight->finish;
	like($out, qr/"duplicate":1/, 'the request in flight was answered');
	is(sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'cdi collector%' AND datname = '$db'"), 1, 'by the same collector');
}

#
# Files that cannot be used
#
sub complains
{
	my ($name, $pattern, $change) = @_;
	my $offset = -s $node->logfile;
	$change->();
	$node->reload;
	ok(eval { $node->wait_for_log($pattern, $offset) }, "$name: said in the log");
	is(curl('--cacert', "$place/second.pem", @post, event()), $stored, "$name: the certificate before stays in use");
	install('second');
	$node->wait_for_log(qr/cdi collector uses certificate/, $offset);
	pass("$name: tried again without a reload");
}
complains('a key that others can read', qr/cannot speak TLS: private key file ".*" has group or world access.*HINT:.*0600/s,
	sub { chmod 0640, "$place/server.key" });
complains('a key that is not the certificate\'s', qr/cannot speak TLS: certificate ".*" and private key ".*" cannot be used together/,
	sub { system_or_bail('cp', "$place/first.key", "$place/server.key"); chmod 0600, "$place/server.key" });
complains('no key', qr/cannot speak TLS: could not access private key file ".*": No such file/, sub { unlink "$place/server.key" });
complains('no certificate at all', qr/cannot speak TLS: certificate file ".*" cannot be used/,
	sub { unlink "$place/server.pem"; append_to_file("$place/server.pem", "nonsense\n") });

# From the beginning
{
	unlink "$place/server.pem";
	my $offset = -s $node->logfile;
	$node->restart;
	$node->wait_for_log(qr/cannot speak TLS: could not read certificate file.*It does not listen/s, $offset);
	ok(!eval { http_connect($port) }, 'without a certificate it does not listen');
	install('first');
	ok(shows('first'), 'until there is one');
}

# Slow handshakes
{
	my @silent = map { http_connect($port) } 1 .. 20;
	print { $silent[0] } "\x16\x03\x01\x02\x00";
	is(curl('--cacert', "$place/first.pem", @post, event()), $stored, 'handshakes that do not go on hold up nobody');
	my $ended = 0;
	for my $socket (@silent)
	{
		my $vector = '';
		vec($vector, fileno($socket), 1) = 1;
		$ended++ if select($vector, undef, undef, LIMIT) && !sysread $socket, my $byte, 1;
	}
	is($ended, 20, 'and are ended');
}

#
# Off again
#
$node->append_conf('postgresql.conf', "cdi.collector_tls_certificate = ''\ncdi.collector_tls_key = ''");
$node->reload;
ok(http_wait($port), 'without files it is plain HTTP again');

#
# Behind nginx, with the configuration of the documentation
#
my $process;
END { local $?; $process->kill_kill(grace => 5) if $process }
SKIP:
{
	my ($nginx) = grep { -x } '/usr/sbin/nginx', '/usr/local/sbin/nginx', '/usr/bin/nginx';
	skip 'nginx is not installed (Debian package nginx-light)', 9 unless $nginx;
	my ($site) = slurp_file("$FindBin::RealBin/../../docs/collect.md") =~ /^```nginx\n(.*?)^```$/ms;
	my $outside = PostgreSQL::Test::Cluster::get_free_port();
	my $replaced = 0;
	$replaced += $site =~ s/127\.0\.0\.1:8787/127.0.0.1:$port/;
	$replaced += $site =~ s/listen 443/listen 127.0.0.1:$outside/;
	$replaced += $site =~ s{/etc/nginx/events}{$place/first}g;
	is($replaced, 4, 'the documented configuration, with other ports and files');
	mkdir "$place/nginx";
	append_to_file("$place/nginx/nginx.conf", <<CONF);
daemon off;
pid $place/nginx/pid;
error_log $place/nginx/error.log;
events {}
http {
	access_log off;
	client_body_temp_path $place/nginx/body;
	proxy_temp_path $place/nginx/proxy;
	fastcgi_temp_path $place/nginx/fastcgi;
	uwsgi_temp_path $place/nginx/uwsgi;
	scgi_temp_path $place/nginx/scgi;
$site}
CONF
	$process = IPC::Run::start([ $nginx, '-e', "$place/nginx/error.log", '-p', "$place/nginx", '-c', "$place/nginx/nginx.conf" ], '>&', "$place/nginx/output");
	my @tls = ('--cacert', "$place/first.pem");
	my $url = "https://localhost:$outside";
	ok(wait_until(sub { curl(@tls, "$url/health") eq '{"status":"ok"}' }), 'nginx passes on');
	is(curl(@tls, '-o', '/dev/null', '-w', '%{http_code}', "$url/metrics"), '404', 'but not the metrics');

	my $send = sub {
		my (@headers) = @_;
		my $body = event();
		is(curl(@tls, '-u', "$key:", '-H', 'Origin: https://shop.example', (map { ('-H', $_) } @headers), "$url/v1/track", '-d', $body), $stored, 'an event through nginx');
		return sql("SELECT coalesce(context ->> 'ip', '-') FROM cdi.events WHERE message_id = 't-$sequence'");
	};
	is($send->('X-Forwarded-For: 198.51.100.7'), '127.0.0.1', 'nobody is believed');
	$node->append_conf('postgresql.conf', "cdi.collector_trusted_proxies = '127.0.0.1/32, 198.51.100.0/24'");
	$node->reload;
	wait_until(sub {
		curl(@tls, '-u', "$key:", '-H', 'Origin: https://shop.example', '-H', 'X-Forwarded-For: 203.0.113.8', "$url/v1/track", '-d', event());
		return sql("SELECT context ->> 'ip' FROM cdi.events WHERE message_id = 't-$sequence'") eq '203.0.113.8';
	});
	is($send->('X-Forwarded-For: 6.6.6.6, 203.0.113.9, 198.51.100.7'), '203.0.113.9', 'trusted proxies are, and nobody further left');
	is($send->('X-Forwarded-For: 2001:db8::9'), '2001:db8::9', 'IPv6');
	my $big = "$place/large";
	append_to_file($big, 'x' x (3 * 1024 * 1024));
	like(curl(@tls, '-u', "$key:", "$url/v1/batch", '--data-binary', "\@$big"), qr/invalid_json/, 'three megabytes');
	my @pipeline = map { ('--next', @tls, '-s', '-u', "$key:", "$url/v1/track", '-d', event()) } 1 .. 20;
	shift @pipeline;
	is(curl(@pipeline), $stored x 20, 'twenty requests');
	$process->signal('QUIT');
	$process->finish;
	undef $process;
}
my ($result, $output, $error) = $node->psql($db, "SET cdi.collector_trusted_proxies = '10.0.0.0/33'");
like($error, qr/"10\.0\.0\.0\/33" is neither an address nor a network/, 'a network that is none');
unlike(slurp_file($node->logfile), qr/PANIC|TRAP:|terminated by signal/, 'no process crashed');
$node->stop;
done_testing();
