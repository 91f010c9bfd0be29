# Sourced by tests in bash: results as TAP, SQL, and waiting for the collector.
# The connection (PG*) and CDI_COLLECTOR come from test/run.
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"

tap_failed=0

# is GOT EXPECTED NAME
is()
{
	if [ "$1" = "$2" ]; then
		printf 'ok - %s\n' "$3"
	else
		printf '# got:      %s\n# expected: %s\nnot ok - %s\n' "$1" "$2" "$3"
		tap_failed=1
	fi
}

# ok NAME COMMAND...
ok()
{
	local name=$1

	shift
	if "$@"; then
		printf 'ok - %s\n' "$name"
	else
		printf 'not ok - %s\n' "$name"
		tap_failed=1
	fi
}

sql()
{
	psql -XqAt -v ON_ERROR_STOP=1 -c "$1"
}

write_key()
{
	sql "SELECT cdi_create_source('$1')"
}

# Skip the test where a program is missing: need node npm chromium
need()
{
	local program

	for program in "$@"; do
		if ! command -v "$program" >/dev/null; then
			printf '1..0 # SKIP %s is not installed (make check installs it)\n' "$program"
			exit 0
		fi
	done
}

# npm packages of parts, and of the browser harness (lib); the scripts of the
# first find theirs by NODE_PLACE: node_packages segment lib
node_packages()
{
	local part

	for part in "$@"; do
		"$CDI_ROOT/test/setup" node "$part" || exit
	done
	export NODE_PLACE=$CDI_BUILD/node/$1
}

# The launcher starts the collector when it hears of the database.
wait_for_collector()
{
	local end=$((SECONDS + 180))

	while [ $SECONDS -lt $end ]; do
		if curl -fsS -o /dev/null "$CDI_COLLECTOR/health" 2>/dev/null; then
			return
		fi
		sleep 0.2
	done
	printf 'not ok - the collector answers at %s within 180 s\n' "$CDI_COLLECTOR"
	exit 1
}

# The promise of the pipeline, over all that was sent to this database.
invariant()
{
	is "$(psql -XqAt -v ON_ERROR_STOP=1 -f "$CDI_ROOT/test/lib/invariant.sql")" '' \
		'every event received is accounted for'
}
