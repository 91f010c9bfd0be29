/*
 * keys.c
 *		128-bit keys of identifiers and message ids.
 *
 * HMAC-SHA-256 under the installation's key, truncated: whoever sends events
 * can neither aim for a collision nor learn a key from a value.  The two
 * states of the hash after the padded key are kept, which halves the work.
 */
#include "postgres.h"

#include <openssl/sha.h>

#include "catalog/namespace.h"
#include "catalog/pg_collation.h"
#include "executor/spi.h"
#include "nodes/value.h"
#include "port/pg_bswap.h"
#include "utils/builtins.h"
#include "utils/formatting.h"
#include "utils/inval.h"

#include "base/errors.h"
#include "identity/identity.h"

static SHA256_CTX inner_state;
static SHA256_CTX outer_state;
static Oid	loaded_for = InvalidOid;	/* table whose key was loaded */
static bool loaded = false;
static bool invalidated = false;	/* since the last load began */

/* cdi_init() makes the key, and its transaction may be rolled back. */
static void
invalidate(Datum arg, Oid relid)
{
	if (relid == InvalidOid || relid == loaded_for)
	{
		loaded = false;
		invalidated = true;
	}
}

void
cdi_keys_load(void)
{
	static CdiPlan plan = {.query = "SELECT key FROM cdi.identity_key"};
	static bool registered = false;
	unsigned char pad[64];
	bytea	   *key;
	bool		isnull;

	if (loaded)
		return;
	if (!registered)
	{
		CacheRegisterRelcacheCallback(invalidate, (Datum) 0);
		registered = true;
	}
	loaded_for = cdi_relation_oid("identity_key");
	loaded = invalidated = false;
	cdi_plan_execute_latest(&plan);
	if (SPI_processed != 1)
		ereport(ERROR,
				(errcode(ERRCODE_CDI_NOT_INITIALISED),
				 errmsg("cdi has no identity key in this database yet"),
				 errhint("Run SELECT cdi_init() once, as a superuser.")));
	key = DatumGetByteaPP(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	for (int i = 0; i < 64; i++)
		pad[i] = 0x36 ^ (i < VARSIZE_ANY_EXHDR(key) ? (unsigned char) VARDATA_ANY(key)[i] : 0);
	SHA256_Init(&inner_state);
	SHA256_Update(&inner_state, pad, sizeof(pad));
	for (int i = 0; i < 64; i++)
		pad[i] ^= 0x36 ^ 0x5c;
	SHA256_Init(&outer_state);
	SHA256_Update(&outer_state, pad, sizeof(pad));
	explicit_bzero(pad, sizeof(pad));
	loaded = !invalidated;
}

static void
keyed_hash(const void *head, size_t head_len, CdiText value, pg_uuid_t *key)
{
	SHA256_CTX	state = inner_state;
	unsigned char digest[SHA256_DIGEST_LENGTH];

	Assert(OidIsValid(loaded_for));
	SHA256_Update(&state, head, head_len);
	SHA256_Update(&state, value.data, value.len);
	SHA256_Final(digest, &state);
	state = outer_state;
	SHA256_Update(&state, digest, sizeof(digest));
	SHA256_Final(digest, &state);
	memcpy(key->data, digest, UUID_LEN);
}

void
cdi_identifier_key(const char *type, CdiText value, pg_uuid_t *key)
{
	/* The terminating zero keeps type and value apart. */
	keyed_hash(type, strlen(type) + 1, value, key);
}

void
cdi_message_key(int32 source_id, CdiText message_id, pg_uuid_t *key)
{
	/* A leading zero keeps message ids apart from every identifier type. */
	unsigned char head[5] = {0};

	/* The same on every machine: stored keys travel with a dump. */
	uint32		id = pg_hton32((uint32) source_id);

	memcpy(head + 1, &id, sizeof(id));
	keyed_hash(head, sizeof(head), message_id, key);
}

#define MAX_IDENTIFIER_LENGTH 512

/* ICU's root collation; a server without ICU has only the database's own. */
static Oid
unicode_collation(void)
{
	Oid			collation = get_collation_oid(list_make2(makeString("pg_catalog"), makeString("und-x-icu")), true);

	return OidIsValid(collation) ? collation : DEFAULT_COLLATION_OID;
}

CdiText
cdi_identifier_normalise(const char *type, CdiText value)
{
	CdiText		none = {NULL, 0};

	if (value.data == NULL)
		return none;
	while (value.len > 0 && isspace((unsigned char) value.data[0]))
	{
		value.data++;
		value.len--;
	}
	while (value.len > 0 && isspace((unsigned char) value.data[value.len - 1]))
		value.len--;
	if (value.len == 0 || value.len > MAX_IDENTIFIER_LENGTH)
		return none;
	if (strcmp(type, "email") == 0)
	{
		const char *at = memchr(value.data, '@', value.len);

		if (at == NULL || at == value.data || at == value.data + value.len - 1)
			return none;
		for (int i = 0; i < value.len; i++)
		{
			unsigned char c = value.data[i];

			if (c >= 0x80)
			{
				/* Letters beyond ASCII: as Unicode says, whatever the database's locale. */
				value.data = str_tolower(value.data, value.len, unicode_collation());
				value.len = strlen(value.data);
				return value;
			}
			if (c >= 'A' && c <= 'Z')
			{
				value.data = asc_tolower(value.data, value.len);
				break;
			}
		}
	}
	return value;
}
