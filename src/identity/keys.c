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

#include "executor/spi.h"
#include "port/pg_bswap.h"
#include "utils/builtins.h"

#include "base/errors.h"
#include "identity/identity.h"

/* The states of an HMAC after its padded key */
typedef struct KeyedHash
{
	SHA256_CTX	inner;
	SHA256_CTX	outer;
} KeyedHash;

static KeyedHash installation;
static KeyedHash tombstones;
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

static void
start_hash(KeyedHash *hash, const unsigned char *key, int len)
{
	unsigned char pad[64];

	for (int i = 0; i < 64; i++)
		pad[i] = 0x36 ^ (i < len ? key[i] : 0);
	SHA256_Init(&hash->inner);
	SHA256_Update(&hash->inner, pad, sizeof(pad));
	for (int i = 0; i < 64; i++)
		pad[i] ^= 0x36 ^ 0x5c;
	SHA256_Init(&hash->outer);
	SHA256_Update(&hash->outer, pad, sizeof(pad));
	explicit_bzero(pad, sizeof(pad));
}

static void
finish_hash(const KeyedHash *hash, const void *head, size_t head_len, CdiText value,
			unsigned char digest[SHA256_DIGEST_LENGTH])
{
	SHA256_CTX	state = hash->inner;

	SHA256_Update(&state, head, head_len);
	SHA256_Update(&state, value.data, value.len);
	SHA256_Final(digest, &state);
	state = hash->outer;
	SHA256_Update(&state, digest, SHA256_DIGEST_LENGTH);
	SHA256_Final(digest, &state);
}

void
cdi_keys_load(void)
{
	static CdiPlan plan = {.query = "SELECT key FROM cdi.identity_key"};
	unsigned char salt[SHA256_DIGEST_LENGTH];
	bytea	   *key;
	bool		isnull;

	if (loaded)
		return;
	cdi_invalidation_register(invalidate);
	loaded_for = cdi_relation_oid("identity_key");
	loaded = invalidated = false;
	cdi_plan_execute_latest(&plan);
	if (SPI_processed != 1)
		ereport(ERROR,
				(errcode(ERRCODE_CDI_NOT_INITIALISED),
				 errmsg("cdi has no identity key in this database yet"),
				 errhint("Run SELECT cdi_init() once, as a superuser.")));
	key = DatumGetByteaPP(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	start_hash(&installation, (unsigned char *) VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key));
	/* Without the zero behind a type's name this is no identifier. */
	finish_hash(&installation, "cdi tombstone", strlen("cdi tombstone"), (CdiText) {NULL, 0}, salt);
	start_hash(&tombstones, salt, sizeof(salt));
	loaded = !invalidated;
}

static void
keyed_hash(const void *head, size_t head_len, CdiText value, pg_uuid_t *key)
{
	unsigned char digest[SHA256_DIGEST_LENGTH];

	Assert(OidIsValid(loaded_for));
	finish_hash(&installation, head, head_len, value, digest);
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

void
cdi_identifier_tombstone(const pg_uuid_t *key, uint8 tombstone[32])
{
	Assert(OidIsValid(loaded_for));
	finish_hash(&tombstones, key->data, UUID_LEN, (CdiText) {NULL, 0}, tombstone);
}
