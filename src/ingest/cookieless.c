/*
 * cookieless.c
 *		Ids of a day, for visitors on whose devices nothing is stored.
 *
 * The id is HMAC-SHA-256 over database, source, address and user agent of the
 * client, as Plausible, Fathom and PostHog make theirs, under a salt that lies
 * in shared memory and nowhere else.  All processes of the cluster share it.
 * It is made when it is first needed and is of one UTC day: who needs it on
 * another day makes a new one in its place, and the launcher, which looks at
 * shared memory once per minute anyhow, overwrites it where nobody does.  Once
 * it is gone, nobody can tell whose an id was or make the same again.
 *
 * So an event that was received on another day, by a replay or an import of
 * history, gets no id now.  A failed event takes along the one that it had.
 *
 * Both address and user agent are needed: either alone is many people's.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/hmac.h"
#include "common/sha2.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "storage/shmem.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"

#include "base/network.h"
#include "base/scan.h"
#include "identity/identity.h"
#include "ingest/cookieless.h"
#include "ingest/stages.h"

#define PREFIX		"cookieless:"
#define SALT_BYTES	32
#define ID_BYTES	16			/* 128 bits, as all keys here */

typedef struct SharedSalt
{
	LWLock	   *lock;
	bool		made;
	int64		day;			/* UTC, since 2000 */
	uint8		salt[SALT_BYTES];
} SharedSalt;

static SharedSalt *shared = NULL;

/*
 * The salt
 */
Size
cdi_cookieless_shmem_size(void)
{
	return MAXALIGN(sizeof(SharedSalt));
}

void
cdi_cookieless_shmem_create(LWLock *lock)
{
	bool		found;

	shared = ShmemInitStruct("cdi cookieless", sizeof(SharedSalt), &found);
	if (!found)
	{
		memset(shared, 0, sizeof(SharedSalt));
		shared->lock = lock;
	}
}

static void
require_shared(void)
{
	if (shared == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cookieless ids need shared memory, where their salt is"),
				 errhint("Put cdi into shared_preload_libraries and restart the server.")));
}

static int64
day_of(TimestampTz time)
{
	int64		day = time / USECS_PER_DAY;

	return time % USECS_PER_DAY < 0 ? day - 1 : day;
}

/* Copies the salt of now; returns its day. */
static int64
get_salt(uint8 *salt)
{
	int64		today;

	LWLockAcquire(shared->lock, LW_SHARED);
	today = day_of(GetCurrentTimestamp());
	if (!shared->made || shared->day != today)
	{
		LWLockRelease(shared->lock);
		LWLockAcquire(shared->lock, LW_EXCLUSIVE);
		today = day_of(GetCurrentTimestamp());
		if (!shared->made || shared->day != today)
		{
			explicit_bzero(shared->salt, SALT_BYTES);
			shared->made = false;
			if (!pg_strong_random(shared->salt, SALT_BYTES))
				ereport(ERROR,
						(errcode(ERRCODE_INTERNAL_ERROR),
						 errmsg("could not generate random bytes")));
			shared->day = today;
			shared->made = true;
		}
	}
	memcpy(salt, shared->salt, SALT_BYTES);
	LWLockRelease(shared->lock);
	return today;
}

void
cdi_cookieless_end_day(void)
{
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	if (shared->made && shared->day != day_of(GetCurrentTimestamp()))
	{
		explicit_bzero(shared->salt, SALT_BYTES);
		shared->made = false;
	}
	LWLockRelease(shared->lock);
}

PG_FUNCTION_INFO_V1(cdi_require_cookieless);

/* Raises where there cannot be such ids. */
Datum
cdi_require_cookieless(PG_FUNCTION_ARGS)
{
	require_shared();
	PG_RETURN_VOID();
}

/*
 * The id
 */
bool
cdi_cookieless_is(CdiText id)
{
	return id.data != NULL && id.len >= (int) strlen(PREFIX) &&
		memcmp(id.data, PREFIX, strlen(PREFIX)) == 0;
}

static CdiText
hash(const uint8 *salt, int32 source_id, const CdiAddress *address, CdiText agent)
{
	uint32		head[2] = {pg_hton32(MyDatabaseId), pg_hton32((uint32) source_id)};
	uint8		digest[PG_SHA256_DIGEST_LENGTH];
	pg_hmac_ctx *context = pg_hmac_create(PG_SHA256);
	char	   *id = palloc0(strlen(PREFIX) + 2 * ID_BYTES + 1);

	/* The user agent alone has no fixed length, and comes last. */
	if (context == NULL || pg_hmac_init(context, salt, SALT_BYTES) < 0 ||
		pg_hmac_update(context, (uint8 *) head, sizeof(head)) < 0 ||
		pg_hmac_update(context, address->bytes, sizeof(address->bytes)) < 0 ||
		pg_hmac_update(context, (const uint8 *) agent.data, agent.len) < 0 ||
		pg_hmac_final(context, digest, sizeof(digest)) < 0)
		elog(ERROR, "could not compute HMAC-SHA-256");
	pg_hmac_free(context);
	strcpy(id, PREFIX);
	hex_encode((char *) digest, ID_BYTES, id + strlen(PREFIX));
	return cdi_text(id);
}

/* What the event says of its client in so many words, else what its request says */
static CdiText
find_member(const CdiEvent *event, const char *name, CdiText otherwise)
{
	const CdiEnvelope *envelope = event->envelope;
	CdiText		value = CDI_NO_TEXT;

	if (event->context != NULL)
		value = cdi_jsonb_text(&event->context->root, name);
	else if (envelope != NULL && envelope->context != NULL)
		value = cdi_jsonb_text(&envelope->context->root, name);
	return value.len > 0 ? value : otherwise;
}

static bool
find_address(const CdiEvent *event, CdiAddress *address)
{
	CdiText		text = find_member(event, "ip", event->envelope ? event->envelope->address : CDI_NO_TEXT);
	static const CdiAddress unspecified = {{0}};
	static const CdiAddress unspecified_mapped = {{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff}};

	return cdi_address_parse(text.data, text.len, address) &&
		memcmp(address, &unspecified, sizeof(*address)) != 0 &&
		memcmp(address, &unspecified_mapped, sizeof(*address)) != 0;
}

/* Returns why it cannot be made, or NULL. */
static const char *
make_id(const CdiBatch *batch, const CdiEvent *event, CdiText *id)
{
	CdiText		agent = find_member(event, "userAgent", event->envelope ? event->envelope->agent : CDI_NO_TEXT);
	CdiAddress	address;
	uint8		salt[SALT_BYTES];
	int64		day;

	if (event->envelope != NULL && event->envelope->cookieless_id.data != NULL)
	{
		*id = event->envelope->cookieless_id;
		return NULL;
	}
	if (!find_address(event, &address))
		return "The source has cookieless ids, and the call came without a valid address of its client.";
	if (agent.len == 0)
		return "The source has cookieless ids, and the call came without a user agent of its client.";
	day = get_salt(salt);
	if (day == day_of(event->received_at))
		*id = hash(salt, event->source_id, &address, agent);
	explicit_bzero(salt, sizeof(salt));
	if (day == day_of(event->received_at))
		return NULL;
	if (event->received_at == batch->received_at)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("the day ended before a cookieless id was made"),
				 errhint("Try again.")));
	return "The source has cookieless ids, and the call was received on a day whose salt is gone.";
}

/*
 * Events
 */
static CdiCookieless
setting_of(CdiBatch *batch, int32 source_id)
{
	if (batch->asked_source != source_id)
	{
		const CdiSource *source = cdi_source_by_id(source_id);

		batch->asked_source = source_id;
		batch->asked_cookieless = source == NULL ? CDI_COOKIELESS_OFF : source->cookieless;
	}
	return batch->asked_cookieless;
}

/* An id that is blocked (zeros, the word with which PostHog's SDK asks for a
 * cookieless id) is as good as none. */
static bool
identifies(const char *type, CdiText id)
{
	int			ntypes;
	const CdiIdentifierType *types = cdi_identifier_types(&ntypes);

	if (id.data == NULL)
		return false;
	for (int i = 0; i < ntypes; i++)
		if (strcmp(types[i].name, type) == 0)
			return !cdi_identifier_blocked(&types[i], id);
	return true;
}

/* Members of a call that such a source does not store. */
static const struct
{
	CdiCookieless from;			/* the setting, or one beyond */
	int			length;
	const char *path[3];
}			forbidden[] = {
	{CDI_COOKIELESS_MISSING, 2, {"context", "ip"}},
	{CDI_COOKIELESS_ALWAYS, 1, {"anonymousId"}},
	{CDI_COOKIELESS_ALWAYS, 3, {"context", "device", "id"}},
	{CDI_COOKIELESS_ALWAYS, 3, {"context", "device", "advertisingId"}}
};

static Jsonb *
without(Jsonb *json, const char *const *path, int length)
{
	JsonbContainer *container = &json->root;
	Datum		keys[lengthof(forbidden[0].path)];
	JsonbValue	value;

	for (int i = 0; i < length; i++)
	{
		if (i > 0)
			container = cdi_jsonb_object(container, path[i - 1]);
		keys[i] = CStringGetTextDatum(path[i]);
	}
	if (cdi_jsonb_member(container, path[length - 1], &value) == NULL)
		return json;
	return DatumGetJsonbP(DirectFunctionCall2(jsonb_delete_path, JsonbPGetDatum(json),
											  PointerGetDatum(construct_array(keys, length, TEXTOID, -1, false, TYPALIGN_INT))));
}

/* A call (depth 0) or its context (depth 1) as it is stored; json may be NULL. */
static Jsonb *
strip(Jsonb *json, int depth, CdiCookieless setting)
{
	for (int i = 0; json != NULL && i < lengthof(forbidden); i++)
		if (setting >= forbidden[i].from && forbidden[i].length > depth)
			json = without(json, forbidden[i].path + depth, forbidden[i].length - depth);
	return json;
}

const char *
cdi_cookieless_apply(CdiBatch *batch, CdiEvent *event)
{
	CdiCookieless setting = setting_of(batch, event->source_id);
	const char *problem = NULL;

	if (setting == CDI_COOKIELESS_OFF)
		return NULL;
	require_shared();
	if (identifies("user_id", event->user_id))
	{
		if (setting == CDI_COOKIELESS_ALWAYS)
			event->anonymous_id = CDI_NO_TEXT;
	}
	else if (identifies("anonymous_id", event->anonymous_id) &&
			 (setting == CDI_COOKIELESS_MISSING ||
			  (cdi_event_has_history(event) && cdi_cookieless_is(event->anonymous_id))))
		 /* its own, or one of ours that was exported and comes back */ ;
	else
	{
		CdiText		id = CDI_NO_TEXT;

		problem = make_id(batch, event, &id);
		/* Who sends an id that is nobody's wants to be nobody. */
		if (problem == NULL || identifies("anonymous_id", event->anonymous_id))
			event->anonymous_id = id;
	}
	event->context = strip(event->context, 1, setting);
	return problem;
}

void
cdi_cookieless_set_apart(CdiEvent *event)
{
	int			persons = event->counts[CDI_GRAPH_PERSON];
	int			others = cdi_event_identifiers(event) - persons;
	int			n = 0;

	if (persons < 2)
		return;
	for (int i = 0; i < persons; i++)
		if (!event->identifiers[i].cookieless)
			event->identifiers[n++] = event->identifiers[i];
	if (n > 0 && n < persons && cdi_cookieless_is(event->anonymous_id))
		event->anonymous_id = CDI_NO_TEXT;
	n = Max(n, 1);
	memmove(event->identifiers + n, event->identifiers + persons, sizeof(CdiIdentifier) * others);
	event->counts[CDI_GRAPH_PERSON] = n;
}

void
cdi_cookieless_seal(CdiBatch *batch, const CdiEvent *event,
					CdiText *payload, const CdiEnvelope **envelope)
{
	CdiCookieless setting = setting_of(batch, event->source_id);
	CdiEnvelope *sealed;
	int			ntypes;

	if (setting == CDI_COOKIELESS_OFF)
		return;
	require_shared();
	/* We are called from within a statement of the pipeline's connection to SPI,
	 * where identifier types that have to be read anew need one of their own. */
	SPI_connect();
	(void) cdi_identifier_types(&ntypes);
	SPI_finish();
	sealed = palloc0(sizeof(CdiEnvelope));
	if (event->envelope != NULL)
		*sealed = *event->envelope;
	if (cdi_cookieless_is(event->anonymous_id))
		sealed->cookieless_id = event->anonymous_id;
	else if (!identifies("user_id", event->user_id) &&
			 (setting == CDI_COOKIELESS_ALWAYS || !identifies("anonymous_id", event->anonymous_id)))
		(void) make_id(batch, event, &sealed->cookieless_id);
	sealed->context = strip(sealed->context, 1, setting);
	if (setting == CDI_COOKIELESS_ALWAYS)
		sealed->anonymous_id = CDI_NO_TEXT;
	if (event->call != NULL && JsonContainerIsObject(event->call))
	{
		Jsonb	   *call = palloc(VARHDRSZ + event->call_size);

		SET_VARSIZE(call, VARHDRSZ + event->call_size);
		memcpy(&call->root, event->call, event->call_size);
		call = strip(call, 0, setting);
		*payload = cdi_text(JsonbToCString(NULL, &call->root, VARSIZE(call) - VARHDRSZ));
		/* a call of Segment's by now, and one that stands alone */
		sealed->dialect = NULL;
		sealed->text = CDI_NO_TEXT;
		sealed->element = true;
	}
	*envelope = sealed;
}
