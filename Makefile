# cdi: customer data infrastructure inside PostgreSQL.
#
#   make demo    build everything and watch it work, on a private cluster
#   make check   build everything and run every test
#   make         build the extension;  make install  install it

EXTENSION = cdi
EXTVERSION = $(shell sed -n "s/^default_version = '\(.*\)'/\1/p" cdi.control)

MODULE_big = cdi
OBJS = $(patsubst %.c,%.o,$(sort $(wildcard src/*/*.c)))
DATA_built = cdi--$(EXTVERSION).sql
DATA = $(wildcard sql/upgrade/cdi--*.sql)

PG_CPPFLAGS = -Isrc
PG_CFLAGS = -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare -Wno-missing-field-initializers -Wno-declaration-after-statement $(CDI_CFLAGS)
SHLIB_LINK = -lcrypto -lz -lmicrohttpd -ljansson -lcurl

EXTRA_CLEAN = cdi--$(EXTVERSION).sql

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
ifneq ($(PGXS),)
include $(PGXS)
endif

# bitcode of the whole library buys nothing here and needs clang
with_llvm = no

SQL_PARTS = $(addprefix sql/,$(shell sed 's/\#.*//' sql/manifest))

cdi--$(EXTVERSION).sql: sql/manifest $(SQL_PARTS)
	cat $(SQL_PARTS) > $@

$(OBJS): $(wildcard src/*/*.h)
