/*
 * push_token.c
 *		Access tokens of the push worker: asked for before the first request,
 *		and again before they end or when one is refused.
 *
 * A token lives in memory only.  A refresh token that takes the place of the
 * one in cdi.secrets is encrypted and stored before anything is sent with what
 * came along with it: a server that hands out a new one forgets the old.
 */
#include "activate/push.h"

#include "utils/guc.h"
#include "utils/memutils.h"

#include "base/errors.h"
#include "worker/worker.h"

/* A token is used no longer than this before its end, or where none is said. */
#define TOKEN_MARGIN (60 * USECS_PER_SEC)
#define TOKEN_LIFE (30 * SECS_PER_MINUTE)

/* Somebody may be changing the secret that takes a new refresh token. */
#define STORE_LOCK_TIMEOUT "100ms"
#define STORE_RETRY 1000

void
push_token_drop(PushDestination *destination)
{
	if (destination->token)
		pfree(destination->token);
	destination->token = NULL;
	destination->target.token = NULL;
	destination->token_works = false;
}

/* Name of the setting that a template "{{secret.NAME}}" stands for, or NULL */
static char *
setting_of(const json_t *auth)
{
	const char *template = cdi_json_string(auth, "refresh_token");
	char	   *name;

	if (template == NULL || strncmp(template, "{{secret.", 9) != 0)
		return NULL;
	name = pstrdup(template + 9);
	name[strcspn(name, "}| ")] = '\0';
	return name;
}

static void
ask(CdiPushState *push, PushDestination *destination)
{
	MemoryContext context = AllocSetContextCreate(push->context, "cdi request for a token", ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	PushRequest *request = palloc0(sizeof(PushRequest));
	char	   *setting = setting_of(cdi_oauth_part(&destination->target));
	volatile bool built = false;

	request->context = context;
	request->token_for = destination;
	if (destination->refresh_token && setting)
		json_object_set_new(destination->target.secrets, setting, json_string(destination->refresh_token));
	PG_TRY();
	{
		request->request = cdi_oauth_request(&destination->target);
		built = true;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		push_pause_for_settings(destination, error->sqlerrcode, error->message);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	if (!built)
	{
		MemoryContextDelete(context);
		return;
	}
	destination->token_asked = true;
	push_flight_start(push, destination, NULL, 0);
	cdi_client_start(push->http, request->request, &destination->target, request);
}

/*
 * The new refresh token, where the old one came from.  Where it cannot be
 * stored it is lost with this process; where somebody else holds the secret,
 * nothing is sent until it is.
 */
static void
store_refresh_token(PushDestination *destination)
{
	const char *setting = setting_of(cdi_oauth_part(&destination->target));
	const char *reference = setting ? cdi_json_string(destination->target.settings, setting) : NULL;
	MemoryContext old = CurrentMemoryContext;
	volatile bool stored = false;
	volatile bool held = false;

	if (reference != NULL && strncmp(reference, "secret:", 7) == 0)
	{
		PG_TRY();
		{
			push_begin("cdi: store a token", STORE_LOCK_TIMEOUT);
			cdi_secret_enter(reference + 7, destination->refresh_token);
			cdi_worker_commit();
			stored = true;
		}
		PG_CATCH();
		{
			held = geterrcode() == ERRCODE_LOCK_NOT_AVAILABLE;
			if (held)
				(void) push_no_lock(old);
			else
				cdi_worker_catch();
		}
		PG_END_TRY();
		MemoryContextSwitchTo(old);
	}
	destination->token_unstored = held;
	if (held)
		push_pause_for(destination, STORE_RETRY, ERRCODE_LOCK_NOT_AVAILABLE,
					   psprintf("Its new refresh token cannot be stored: another transaction has changed secret \"%s\" and is still open", reference + 7));
	else if (!stored)
		ereport(WARNING,
				(errcode(ERRCODE_CDI_SECRET_UNAVAILABLE),
				 errmsg("destination \"%s\" handed out a new refresh token that cannot be stored", destination->name),
				 errdetail("It works until the push worker ends; the one in its settings may be void by then."),
				 errhint("Keep the refresh token in cdi.secrets, and refer to it by secret:NAME.")));
}

bool
push_token_ready(CdiPushState *push, PushDestination *destination)
{
	if (cdi_oauth_part(&destination->target) == NULL)
		return true;
	if (destination->token_asked)
		return false;
	if (destination->token_unstored)
		store_refresh_token(destination);
	if (destination->token_unstored)
		return false;
	if (destination->token && destination->token_until > GetCurrentTimestamp())
		return true;
	push_token_drop(destination);
	ask(push, destination);
	return false;
}

static void
keep_refresh_token(PushDestination *destination, const char *value)
{
	const char *setting = setting_of(cdi_oauth_part(&destination->target));
	json_t	   *now = json_object_get(destination->target.secrets, setting ? setting : "");

	if (now && strcmp(json_string_value(now), value) == 0)
		return;
	if (destination->refresh_token)
		pfree(destination->refresh_token);
	destination->refresh_token = MemoryContextStrdup(destination->context, value);
	destination->secrets_read = 0;
	store_refresh_token(destination);
}

void
push_token_take(CdiPushState *push, PushRequest *request, const CdiAnswer *answer)
{
	PushDestination *destination = request->token_for;
	MemoryContext old = MemoryContextSwitchTo(request->context);
	CdiToken   *token = cdi_oauth_answer(&destination->target, answer);
	int64		life;

	destination->token_asked = false;
	push_flight_end(push, destination, NULL, 0);
	if (token->access_token != NULL)
	{
		if (token->refresh_token != NULL)
			keep_refresh_token(destination, token->refresh_token);
		life = (int64) (token->expires_in > 0 ? token->expires_in : TOKEN_LIFE) * USECS_PER_SEC;
		destination->token = MemoryContextStrdup(destination->context, token->access_token);
		destination->target.token = destination->token;
		destination->token_until = GetCurrentTimestamp() + Max(life - TOKEN_MARGIN, life / 2);
		destination->token_works = false;
		destination->failures = 0;
	}
	else if (token->revoked || token->refused)
	{
		destination->secrets_read = 0;
		push_pause_for_settings(destination, ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION,
								psprintf("The authorization server refuses to give access (%s)%s", token->error, token->revoked ?
										 ": the connection was revoked or has expired and must be authorized again" : ""));
	}
	else if (answer->failure != NULL && strcmp(answer->failure, "refused") == 0)
		push_pause_for_settings(destination, ERRCODE_CDI_EGRESS_REFUSED,
								psprintf("The authorization server's address is not allowed: %s", token->error));
	else
	{
		push_note_failure(destination, psprintf("its authorization server gives no token: %s", token->error));
		push_pause(destination, Max(push_backoff(destination->failures), (int64) answer->retry_after * 1000));
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(request->context);
}
