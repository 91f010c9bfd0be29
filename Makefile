# cdi: customer data infrastructure inside PostgreSQL.
#
#   make demo    set everything up and watch it work, on a private cluster
#   make check   set everything up and run every test
#   make         build the extension;  make install  install it
#
# make help lists the rest.

EXTENSION = cdi
EXTVERSION = $(shell sed -n "s/^default_version = '\(.*\)'/\1/p" cdi.control)

MODULE_big = cdi
OBJS = $(patsubst %.c,%.o,$(sort $(wildcard src/*/*.c)))
DATA_built = cdi--$(EXTVERSION).sql cdi--0.1.0--0.2.0.sql

PG_CPPFLAGS = -Isrc
PG_CFLAGS = -Wall -Wextra -Werror=implicit-function-declaration -Wno-unused-parameter -Wno-sign-compare -Wno-missing-field-initializers -Wno-declaration-after-statement $(CDI_CFLAGS)
SHLIB_LINK = -lcrypto -lz -lmicrohttpd -lgnutls -ljansson -lcurl

EXTRA_CLEAN = $(DATA_built) sql/56_destinations.sql

# Bitcode of the whole library buys nothing here and needs clang.
override with_llvm = no

# Without an installed PostgreSQL there is nothing to include: the targets of
# the workshop install it first and then build in a make of their own.
PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs 2>/dev/null)
WORKSHOP = help setup demo demo-stop check check-sql check-isolation check-tap check-fault check-fuzz check-integration check-long bench lint docs
ifeq ($(filter $(WORKSHOP),$(MAKECMDGOALS)),)

ifeq ($(wildcard $(PGXS)),)
$(error PostgreSQL's build files are missing ($(PG_CONFIG) --pgxs). Run make setup, or install postgresql-server-dev-15)
endif
include $(PGXS)

SQL_PARTS = $(addprefix sql/,$(shell sed 's/\#.*//' sql/manifest))

cdi--$(EXTVERSION).sql: sql/manifest sql/qualify.sed $(SQL_PARTS)
	sed -f sql/qualify.sed $(SQL_PARTS) > $@

# Specifications of destinations travel inside the install script.
SPECS = $(sort $(wildcard share/destinations/*.json))

sql/56_destinations.sql: $(SPECS) Makefile
	@echo '-- Built-in destinations, made from share/destinations by make.' > $@
	@for spec in $(SPECS); do \
		echo 'INSERT INTO cdi.destination_specs (name, version, spec, builtin)'; \
		echo "SELECT s ->> 'name', s ->> 'version', s, true FROM (SELECT \$$cdi_spec\$$"; \
		cat $$spec; \
		echo "\$$cdi_spec\$$::jsonb AS s) AS v"; \
		echo 'ON CONFLICT (name, version) DO UPDATE SET spec = excluded.spec, builtin = true;'; \
	done >> $@

# An upgrade: its own part, the tables that the version added, and everything
# that uses CREATE OR REPLACE.
cdi--0.1.0--0.2.0.sql: sql/manifest sql/qualify.sed sql/upgrade/0.1.0--0.2.0.sql sql/upgrade/99_warning.sql $(SQL_PARTS)
	sed -f sql/qualify.sed sql/00_header.sql sql/upgrade/0.1.0--0.2.0.sql sql/11_config_0.2.0.sql \
		$(filter-out sql/0% sql/1%,$(SQL_PARTS)) sql/upgrade/99_warning.sql > $@

$(OBJS): $(wildcard src/*/*.h)

# The one loop that most of a long elimination is.
src/attribution/markov_eliminate.o: CFLAGS += $(CFLAGS_UNROLL_LOOPS) $(CFLAGS_VECTORIZE)

else

# The workshop.  Each target installs the Debian packages it needs, then works
# in the place that test/setup names: this clone, or a copy of it where the
# user that runs the server cannot enter the clone.
.PHONY: $(WORKSHOP)
FUZZ_PACKAGES = clang libclang-rt-14-dev
PROXY_PACKAGES = nginx-light openssl
CLIENT_PACKAGES = nodejs npm chromium
IN_PLACE = place=$$(test/setup place) && cd "$$place" && test/setup install

help:
	@echo 'make               build the extension (make install installs it)'
	@echo 'make setup         install what the rest needs; private PostgreSQL in build/pg with cdi'
	@echo 'make demo          a simulated shop on a private cluster, which keeps running'
	@echo 'make demo-stop     stop that cluster'
	@echo 'make check         every test'
	@echo 'make check-sql     one part of them; also check-isolation, check-tap, check-fault,'
	@echo '                   check-fuzz, check-integration'
	@echo 'make check-long    what takes longer: soak, fuzz, ten million events, as many rows out'
	@echo 'make bench         ratios to the alternatives, measured in one run'
	@echo 'make lint          warnings, static analysis, rules of the SQL interface and of the pages'
	@echo 'make docs          write docs/functions.md from the comments of the functions, and the table of docs/destinations.md'

setup:
	@test/setup packages
	@$(IN_PLACE)

demo:
	@test/setup packages
	@$(IN_PLACE) && test/demo/demo

demo-stop:
	@cd "$$(test/setup place --look)" && test/demo/demo stop

check:
	@test/setup packages $(FUZZ_PACKAGES) $(PROXY_PACKAGES) $(CLIENT_PACKAGES)
	@$(IN_PLACE) && test/run

check-tap: PART_PACKAGES = $(PROXY_PACKAGES)
check-fuzz: PART_PACKAGES = $(FUZZ_PACKAGES)
check-integration: PART_PACKAGES = $(CLIENT_PACKAGES)

check-sql check-isolation check-tap check-fault check-fuzz check-integration: check-%:
	@test/setup packages $(PART_PACKAGES)
	@$(IN_PLACE) && test/run $*

check-long:
	@test/setup packages $(FUZZ_PACKAGES) nodejs npm
	@$(IN_PLACE) && test/run long

bench:
	@test/setup packages nodejs npm postgresql-15-pgrouting
	@$(IN_PLACE) && test/bench/run

lint:
	@test/setup packages clang-tidy
	@$(IN_PLACE) && test/lint/run

docs:
	@test/setup packages
	@$(IN_PLACE) && test/lint/run docs && \
		{ test "$$place" = "$(CURDIR)" || cp docs/functions.md docs/destinations.md "$(CURDIR)/docs/"; }

endif
