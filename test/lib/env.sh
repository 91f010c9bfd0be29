# Sourced by the scripts under test/: where things are, and how to run what
# PostgreSQL refuses to run as root.
#
# Everything that the workshop makes lives in build/ of the clone: a copy of
# the PostgreSQL installation that cdi is installed into (build/pg), clusters
# (build/cluster/NAME), virtual environments and npm packages.  The system's
# own installation and clusters are read, never written.

set -euo pipefail

CDI_ROOT=${CDI_ROOT:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)}
CDI_BUILD=$CDI_ROOT/build
PG_MAJOR=${PG_MAJOR:-15}
# The private installation; a test with an installation of its own sets CDI_PG.
CDI_PG=${CDI_PG:-$CDI_BUILD/pg}
PG_BIN=$CDI_PG/usr/lib/postgresql/$PG_MAJOR/bin
PG_CONFIG=$PG_BIN/pg_config
export CDI_ROOT CDI_BUILD CDI_PG PG_MAJOR PG_BIN
# Where test/setup puts a Node.js if the system's is too old.
PATH=$CDI_BUILD/node/runtime/bin:$PATH

# Settings of the caller's shell must not reach the tests, except for those
# that test/run gives to a part with a database of its own.
if [ -z "${CDI_COLLECTOR:-}" ]; then
	unset PGHOST PGPORT PGUSER PGDATABASE
fi
unset PGPASSWORD PGSERVICE PGOPTIONS PGDATA
unset MAKEFLAGS MFLAGS MAKELEVEL

say()
{
	printf '==> %s\n' "$*" >&2
}

die()
{
	printf 'error: %s\n' "$*" >&2
	exit 1
}

# Run a command as the user that servers run as: user postgres where the
# caller is root (PostgreSQL refuses to run as root), else the caller.
as_server()
{
	if [ "$(id -u)" = 0 ]; then
		runuser -u postgres -- "$@"
	else
		"$@"
	fi
}

# A directory that the servers' user may write to.
server_dir()
{
	mkdir -p "$1"
	if [ "$(id -u)" = 0 ]; then
		chown postgres: "$1"
	fi
}

# A TCP port of the loopback interface that nothing listens on, and that the
# kernel gives to no connection before somebody does.  Browsers and Node.js
# refuse to call 10080.
free_port()
{
	python3 - <<-'PY'
	import random, socket
	with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
	    first, last = map(int, file.read().split())
	ports = [port for port in range(10000, 65536) if not first <= port <= last and port != 10080]
	while True:
	    with socket.socket() as s:
	        try:
	            s.bind(("127.0.0.1", random.choice(ports) if ports else 0))
	        except OSError:
	            continue
	        print(s.getsockname()[1])
	        break
	PY
}
