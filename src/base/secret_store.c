/*
 * secret_store.c
 *		cdi.secrets: values encrypted with a key outside of the database.
 *
 * A value comes in through COPY cdi.secret_entry FROM STDIN, whose data is in
 * no statement, log or statistics view.  A trigger of that view encrypts it
 * with AES-256-GCM before any table sees it, so that WAL, backups and dumps
 * have ciphertext only.  The key is a file that cdi.secret_key_file names; it
 * is refused where it lies in the data directory, or where others may read it.
 *
 * The name is authenticated with the value: a row whose name was changed does
 * not decrypt.
 */
#include "postgres.h"

#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "common/cryptohash.h"
#include "common/sha2.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/builtins.h"
#include "utils/elog.h"

#include "base/base.h"
#include "base/errors.h"
#include "base/secret.h"
#include "worker/worker.h"

#define KEY_SIZE	32
#define NONCE_SIZE	12
#define TAG_SIZE	16

static void
key_unavailable(const char *reason, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_CDI_SECRET_UNAVAILABLE),
			 errmsg("the key of cdi.secrets is not available"),
			 errdetail("%s", reason),
			 errhint("%s", hint)));
}

static void
read_key(unsigned char *key)
{
	const char *hint = "Make one with: openssl rand -out FILE 32; chmod 400 FILE, as the server's user, and set cdi.secret_key_file.";
	char		path[PATH_MAX];
	char		data[PATH_MAX];
	unsigned char rest;
	struct stat state;
	int			file;
	ssize_t		size;

	if (cdi_secret_key_file == NULL || *cdi_secret_key_file == '\0')
		key_unavailable("cdi.secret_key_file is not set.", hint);
	if (realpath(cdi_secret_key_file, path) == NULL || realpath(DataDir, data) == NULL)
		key_unavailable("The file that cdi.secret_key_file names cannot be opened.", hint);
	if (strncmp(path, data, strlen(data)) == 0 && path[strlen(data)] == '/')
		key_unavailable("The file lies in the data directory, and so in every backup of what it protects.", hint);
	file = OpenTransientFile(path, O_RDONLY | O_NOFOLLOW);
	if (file < 0)
		key_unavailable("The file that cdi.secret_key_file names cannot be opened.", hint);
	if (fstat(file, &state) != 0 || !S_ISREG(state.st_mode) || (state.st_mode & (S_IRWXG | S_IRWXO)) != 0)
	{
		CloseTransientFile(file);
		key_unavailable("The file is no plain file that only the server's user can read.", hint);
	}
	size = read(file, key, KEY_SIZE);
	if (size == KEY_SIZE && read(file, &rest, 1) != 0)
		size = 0;
	CloseTransientFile(file);
	if (size != KEY_SIZE)
		key_unavailable("The file has not exactly 32 bytes.", hint);
}

/* The first bytes of the key's hash, to tell one key from another */
static char *
key_id(const unsigned char *key)
{
	pg_cryptohash_ctx *context = pg_cryptohash_create(PG_SHA256);
	uint8		digest[PG_SHA256_DIGEST_LENGTH];

	if (context == NULL || pg_cryptohash_init(context) < 0 ||
		pg_cryptohash_update(context, key, KEY_SIZE) < 0 ||
		pg_cryptohash_final(context, digest, sizeof(digest)) < 0)
		elog(ERROR, "could not compute SHA-256");
	pg_cryptohash_free(context);
	return psprintf("%02x%02x%02x%02x", digest[0], digest[1], digest[2], digest[3]);
}

/* In place of nothing that could fail half-way: all or an error. */
static bool
seal(const unsigned char *key, const unsigned char *nonce, const char *name,
	 const char *value, int len, unsigned char *out)
{
	EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
	int			n;
	bool		ok;

	ok = context != NULL &&
		EVP_EncryptInit_ex(context, EVP_aes_256_gcm(), NULL, key, nonce) == 1 &&
		EVP_EncryptUpdate(context, NULL, &n, (const unsigned char *) name, strlen(name)) == 1 &&
		EVP_EncryptUpdate(context, out, &n, (const unsigned char *) value, len) == 1 &&
		EVP_EncryptFinal_ex(context, out + len, &n) == 1 &&
		EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_GCM_GET_TAG, TAG_SIZE, out + len) == 1;
	EVP_CIPHER_CTX_free(context);
	return ok;
}

static bool
unseal(const unsigned char *key, const unsigned char *nonce, const char *name,
	   const unsigned char *sealed, int len, char *out)
{
	EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
	int			n;
	bool		ok;

	ok = context != NULL &&
		EVP_DecryptInit_ex(context, EVP_aes_256_gcm(), NULL, key, nonce) == 1 &&
		EVP_DecryptUpdate(context, NULL, &n, (const unsigned char *) name, strlen(name)) == 1 &&
		EVP_DecryptUpdate(context, (unsigned char *) out, &n, sealed, len) == 1 &&
		EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_GCM_SET_TAG, TAG_SIZE, (void *) (sealed + len)) == 1 &&
		EVP_DecryptFinal_ex(context, (unsigned char *) out + n, &n) == 1;
	EVP_CIPHER_CTX_free(context);
	return ok;
}

static bytea *
to_bytea(const unsigned char *data, int len)
{
	bytea	   *result = palloc(VARHDRSZ + len);

	SET_VARSIZE(result, VARHDRSZ + len);
	memcpy(VARDATA(result), data, len);
	return result;
}

/* In a transaction */
void
cdi_secret_enter(const char *name, const char *value)
{
	static CdiPlan plan = {
		.query = "INSERT INTO cdi.secrets (name, key_id, nonce, ciphertext) VALUES ($1, $2, $3, $4)"
		" ON CONFLICT (name) DO UPDATE SET key_id = excluded.key_id, nonce = excluded.nonce,"
		" ciphertext = excluded.ciphertext, updated_at = pg_catalog.now()",
		.nargs = 4,.argtypes = {TEXTOID, TEXTOID, BYTEAOID, BYTEAOID}
	};
	unsigned char key[KEY_SIZE];
	unsigned char nonce[NONCE_SIZE];
	int			len = strlen(value);
	unsigned char *sealed = palloc(len + TAG_SIZE);
	Datum		values[4];
	bool		ok;
	CdiOwnerScope scope;

	read_key(key);
	ok = pg_strong_random(nonce, sizeof(nonce)) && seal(key, nonce, name, value, len, sealed);
	values[1] = CStringGetTextDatum(key_id(key));
	OPENSSL_cleanse(key, sizeof(key));
	if (!ok)
		elog(ERROR, "could not encrypt a secret");
	values[0] = CStringGetTextDatum(name);
	values[2] = PointerGetDatum(to_bytea(nonce, NONCE_SIZE));
	values[3] = PointerGetDatum(to_bytea(sealed, len + TAG_SIZE));
	cdi_owner_enter(&scope);
	SPI_connect();
	cdi_plan_execute(&plan, values, NULL);
	SPI_finish();
	cdi_owner_leave(&scope);
}

/*
 * A line that COPY itself cannot read (a tab in it, bytes that are no text) is
 * the context of its error, before any trigger could see it.
 */
static emit_log_hook_type next_log_hook = NULL;

static void
hide_entry(ErrorData *error)
{
	if (error->context != NULL && strstr(error->context, "COPY secret_entry, line ") != NULL)
		error->context = pstrdup("COPY secret_entry");
	if (next_log_hook != NULL)
		next_log_hook(error);
}

void
cdi_secret_init(void)
{
	next_log_hook = emit_log_hook;
	emit_log_hook = hide_entry;
}

PG_FUNCTION_INFO_V1(cdi_secret_entered);

/* Instead of INSERT on cdi.secret_entry: a line "NAME=VALUE" */
Datum
cdi_secret_entered(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = cdi_trigger_of(fcinfo, "secret_entry");
	ErrorContextCallback *context = error_context_stack;
	bool		isnull;
	Datum		datum;
	char	   *line;
	char	   *equals;

	/* COPY would put the line into the context of an error, and that into the
	 * server's log. */
	error_context_stack = NULL;
	datum = heap_getattr(trigger->tg_trigtuple, 1, RelationGetDescr(trigger->tg_relation), &isnull);
	line = isnull ? pstrdup("") : TextDatumGetCString(datum);
	equals = strchr(line, '=');
	if (equals == NULL || equals == line || equals[1] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a secret is entered as a line NAME=VALUE"),
				 errhint("COPY cdi.secret_entry FROM STDIN; the line is not shown here because it may hold a secret.")));
	*equals = '\0';
	cdi_secret_enter(line, equals + 1);
	OPENSSL_cleanse(equals + 1, strlen(equals + 1));
	error_context_stack = context;
	return PointerGetDatum(trigger->tg_trigtuple);
}

/* In a transaction; the value in the given context */
static char *
fetch(const char *name, MemoryContext target)
{
	static CdiPlan plan = {
		.query = "SELECT nonce, ciphertext, key_id FROM cdi.secrets WHERE name = $1",
		.nargs = 1,.argtypes = {TEXTOID}
	};
	CdiOwnerScope scope;
	char	   *value = NULL;

	cdi_owner_enter(&scope);
	SPI_connect();
	cdi_plan_execute(&plan, (Datum[]) {CStringGetTextDatum(name)}, NULL);
	if (SPI_processed == 1)
	{
		HeapTuple	tuple = SPI_tuptable->vals[0];
		bool		isnull;
		bytea	   *nonce = DatumGetByteaPP(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 1, &isnull));
		bytea	   *sealed = DatumGetByteaPP(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 2, &isnull));
		int			len = (int) VARSIZE_ANY_EXHDR(sealed) - TAG_SIZE;
		unsigned char key[KEY_SIZE];
		bool		ok;

		read_key(key);
		value = MemoryContextAllocZero(target, Max(len, 0) + 1);
		ok = len >= 0 && VARSIZE_ANY_EXHDR(nonce) == NONCE_SIZE &&
			unseal(key, (unsigned char *) VARDATA_ANY(nonce), name,
				   (unsigned char *) VARDATA_ANY(sealed), len, value);
		OPENSSL_cleanse(key, sizeof(key));
		if (!ok)
			ereport(ERROR,
					(errcode(ERRCODE_CDI_SECRET_UNAVAILABLE),
					 errmsg("secret \"%s\" does not decrypt", name),
					 errdetail("It was encrypted with the key \"%s\".", SPI_getvalue(tuple, SPI_tuptable->tupdesc, 3)),
					 errhint("Set cdi.secret_key_file to that key, or enter the secret again.")));
	}
	SPI_finish();
	cdi_owner_leave(&scope);
	return value;
}

char *
cdi_secret_fetch(const char *name)
{
	MemoryContext caller = CurrentMemoryContext;
	ErrorData  *volatile error = NULL;
	char	   *volatile value = NULL;

	if (IsTransactionState())
		return fetch(name, caller);

	/* The push worker reads secrets while no transaction is open. */
	PG_TRY();
	{
		cdi_worker_begin("cdi: read a secret");
		value = fetch(name, caller);
		cdi_worker_commit();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		cdi_worker_abort();
		FlushErrorState();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	if (error != NULL)
		ReThrowError(error);
	return value;
}
