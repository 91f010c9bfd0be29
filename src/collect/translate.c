/*
 * translate.c
 *		Where the pipeline meets the dialects.
 */
#include "postgres.h"

#include "executor/spi.h"

#include "base/errors.h"
#include "collect/dialect.h"
#include "ingest/ingest.h"

/* Microseconds from 1970 to the server's epoch */
#define UNIX_EPOCH	((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY)

void
cdi_dialect_translate(const CdiEnvelope *envelope, CdiText payload,
					  TimestampTz received_at, StringInfo call)
{
	const CdiDialect *dialect = cdi_dialect_find(envelope->dialect);
	CdiTranslation translation = {
		.payload = payload,
		.envelope = envelope->text,
		.received_at = received_at + UNIX_EPOCH,
		.call = call
	};

	if (dialect == NULL || dialect->translate == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CDI_INVALID_EVENT),
				 errmsg("nothing is known of dialect \"%s\"", envelope->dialect)));
	dialect->translate(&translation);
	if (translation.sqlstate != 0)
		ereport(ERROR,
				(errcode(translation.sqlstate),
				 errmsg("%s", translation.message),
				 translation.detail ? errdetail("%s", translation.detail) : 0));
}

void
cdi_dialect_refresh(CdiEnvelope *envelope, int32 source_id)
{
	const CdiDialect *dialect = cdi_dialect_find(envelope->dialect);
	MemoryContext caller = CurrentMemoryContext;
	CdiOwnerScope scope;
	CdiText		text;

	if (dialect == NULL || dialect->refresh == NULL)
		return;
	cdi_owner_enter(&scope);
	SPI_connect();
	text = dialect->refresh(envelope->text, source_id);
	MemoryContextSwitchTo(caller);
	envelope->text = cdi_text_copy(text);
	SPI_finish();
	cdi_owner_leave(&scope);
}
