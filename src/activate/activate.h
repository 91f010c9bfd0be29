/*
 * activate.h
 *		Rows out of the database: specifications of destinations, the mapping
 *		they are written in, requests and how answers are read.
 *
 * docs/activate.md is the reference of the specification language.  What is
 * declared here touches no table and no network; sync.c queues rows and push.c
 * sends them.
 */
#ifndef CDI_ACTIVATE_H
#define CDI_ACTIVATE_H

#include "postgres.h"

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "base/base.h"
#include "base/json.h"
#include "base/secret.h"

/* spec.c: a specification, checked */
typedef struct CdiSpec
{
	MemoryContext context;		/* everything of it lives here */
	const char *name;
	const char *version;
	json_t	   *root;
} CdiSpec;

/* A destination as requests see it: specification and settings. */
typedef struct CdiTarget
{
	const CdiSpec *spec;
	json_t	   *settings;		/* defaults filled in */
	json_t	   *secrets;		/* resolved, or NULL: not wanted here */
	bool		mask_secrets;	/* nothing is signed; for what people see */
	const char *token;			/* of OAuth, or NULL: none yet */
	TimestampTz now;			/* of tests; 0: the clock */
} CdiTarget;

extern TimestampTz cdi_target_now(const CdiTarget *target);

/*
 * Parses and checks; raises ZC403 where anything is wrong.  With tests the
 * embedded tests run, too (spec_test.c).
 */
extern CdiSpec *cdi_spec_load(MemoryContext parent, const char *text, bool tests);
extern json_t *cdi_spec_action(const CdiSpec *spec, const char *action);
/* Name of the default action, or NULL where one must be named. */
extern const char *cdi_spec_default_action(const CdiSpec *spec);
extern bool cdi_action_serves(const json_t *action, const char *operation);
extern void cdi_spec_run_tests(const CdiSpec *spec);

/*
 * Settings with the defaults of the specification; raises 22023 where they do
 * not fit it.  Never shows the value of a secret.
 */
extern json_t *cdi_settings_check(const CdiSpec *spec, const json_t *settings,
								  MemoryContext context);

/* secret.c */
/* Object of all secrets that the settings refer to. */
extern json_t *cdi_secrets_resolve(const CdiSpec *spec, const json_t *settings,
								   MemoryContext context);

/*
 * map.c: values.  Numbers are text from end to end.  Everything that an
 * evaluation returns lives in the current memory context or in its inputs.
 */
typedef enum CdiValueType
{
	CDI_ABSENT,					/* no such member: leaves no trace */
	CDI_NULL,
	CDI_BOOL,
	CDI_NUMBER,					/* data, len: its text */
	CDI_STRING,
	CDI_CONTAINER,				/* object or array out of a payload */
	CDI_JSON					/* object or array that was built: its text */
} CdiValueType;

typedef struct CdiValue
{
	CdiValueType type;
	bool		boolean;
	const char *data;
	int			len;
	JsonbContainer *container;
} CdiValue;

typedef struct CdiItem
{
	const char *operation;		/* insert, update, delete */
	const char *primary_key;
	const char *key;			/* idempotency key */
	Jsonb	   *row;
	/* filled in by cdi_item_map */
	char	   *json;
	int			len;
	char	   *meta;			/* JSON that requests can use and do not hold, or NULL */
	char	   *list;			/* which array of the body it goes to, or NULL */
	char	   *group;			/* rows of one request have the same */
	int			max_items;		/* of a request with it; 0: as all others */
	char	   *order;			/* of those that have the same one goes after the other; NULL: by primary key alone */
	char	   *error;			/* why it can never be sent, or NULL */
} CdiItem;

/* What an expression can see. */
typedef struct CdiScope
{
	const CdiTarget *target;
	const CdiItem *item;		/* NULL outside of a row */
	JsonbContainer *row;		/* "$": the row, or an answer's body */
	const CdiValue *element;	/* "@": element of the innermost @each */
	const char *element_key;	/* "key": its name, where it is a member of an object */
	CdiItem   **items;			/* of the request */
	int			nitems;
	const char *batch_key;
	Jsonb	   *steps;			/* what former stages have found, or NULL */
	bool		secrets;		/* {{secret...}} may be read */
	const struct CdiAnswer *answer; /* "status", "header", "text" */
} CdiScope;

extern CdiValue cdi_map_evaluate(const CdiScope *scope, const json_t *node);
extern bool cdi_map_condition(const CdiScope *scope, const json_t *condition);
/* map_path.c */
extern CdiValue cdi_map_path(const CdiScope *scope, const char *path);
/* Is this operand of a condition a path? */
extern bool cdi_map_names_root(const char *text);
extern CdiValue cdi_map_template(const CdiScope *scope, const char *text);
extern void cdi_value_append(StringInfo out, const CdiValue *value);
extern bool cdi_value_empty(const CdiValue *value);
/* Text of a scalar (or JSON text of another), in the current context. */
extern char *cdi_value_text(const CdiValue *value);
extern CdiValue cdi_value_string(const char *data, int len);
/* Of settings and literals */
extern CdiValue cdi_value_from_json(const json_t *node);
extern CdiValue cdi_value_from_jsonb(const JsonbValue *value);
extern Jsonb *cdi_value_jsonb(const CdiValue *value);

/* Names that a specification declares, as far as they are known where a path stands */
typedef struct CdiNames
{
	const json_t *settings;		/* properties */
	const json_t *vars;			/* NULL: none can be used */
	json_t	   *steps;			/* object */
	bool		lists;			/* does the action say which list an item goes to? */
} CdiNames;

/* map_check.c: raises ZC403; where says which part of the specification. */
/* What is read of the row: the first names of paths */
typedef struct CdiColumns
{
	char	  **names;
	int			n;
	bool		all;			/* the row as it is */
	bool		clock;			/* and the time */
	const json_t *vars;			/* of the specification, which read it too; or NULL */
} CdiColumns;

typedef struct CdiMapRules
{
	const CdiNames *names;		/* NULL: any will do */
	CdiColumns *columns;		/* where what is read is added, or NULL */
	bool		row;			/* "$", "@" and item. */
	bool		sync;			/* a row of a model, before anything of its destination is known */
	bool		element;		/* "@": inside of @each */
	bool		secrets;
	bool		items;			/* @items */
	bool		answer;			/* header., text and key */
} CdiMapRules;

extern void cdi_map_check(const json_t *node, CdiMapRules rules, const char *where);
extern void cdi_map_check_path(const json_t *path, CdiMapRules rules, const char *where);
extern void cdi_map_check_condition(const json_t *condition, CdiMapRules rules, const char *where);

/* map_functions.c */
typedef struct CdiMapFunction
{
	const char *name;
	int			min_args;
	int			max_args;
	const char *kinds;			/* one letter per argument: s string, i integer */
	CdiValue	(*call) (const CdiValue *value, const json_t *call);	/* call[0] is the name */
} CdiMapFunction;

/* map_numbers.c */
extern const CdiMapFunction cdi_map_number_functions[];
extern const int cdi_map_number_function_count;

/* An instant as the functions on times take it */
extern CdiValue cdi_map_time(TimestampTz at);
extern CdiValue cdi_map_trim(const CdiValue *value, const json_t *call);
extern const CdiMapFunction *cdi_map_function(const char *name, size_t len);
/* step: a name, or an array of name and arguments */
extern CdiValue cdi_map_call(const CdiValue *value, const json_t *step);
typedef enum CdiDigest
{
	CDI_MD5,
	CDI_SHA1,
	CDI_SHA256
} CdiDigest;

extern char *cdi_hex_digest(CdiDigest type, const char *data, int len);

/* map_objects.c */
/* The first group of a match, or all of it; absent where there is none. */
extern CdiValue cdi_map_regex(const CdiValue *value, const char *pattern);
extern void cdi_map_check_regex(const char *pattern, const char *where);
extern const CdiMapFunction cdi_map_object_functions[];
extern const int cdi_map_object_function_count;

/* request.c */
#define CDI_MAX_HEADERS 64
#define CDI_MAX_ITEMS 10000		/* of one request */
#define CDI_MAX_BYTES (64 * 1024 * 1024)

typedef struct CdiHeader
{
	const char *name;
	const char *value;
} CdiHeader;

typedef struct CdiRequest
{
	const char *method;
	const char *url;
	int			nheaders;
	CdiHeader  *headers;
	const char *body;
	size_t		body_len;
	int			timeout;		/* ms */
	const char *key;			/* idempotency key: of the row, or over all */
} CdiRequest;

typedef struct CdiBatchLimits
{
	int			max_items;
	int64		max_bytes;
	int			max_wait;		/* milliseconds that a request with room left waits for more */
} CdiBatchLimits;

/* Maps one row; an item that cannot be sent has its error set.  No ereport. */
extern void cdi_item_map(const CdiTarget *target, const json_t *action, CdiItem *item);
/* In a PG_CATCH block: the message, where the row or event is at fault; goes on where the server is */
extern char *cdi_row_fault(MemoryContext context);
/* What the item is to be ordered by, as an expression over the row says; NULL: nothing.  No ereport. */
extern char *cdi_item_order(const CdiTarget *target, const json_t *expression, const CdiItem *item);
/* Of an action; NULL: it does not ask for an order */
extern const json_t *cdi_action_order(const json_t *action);
/* Does the item go into a request that begins with first and has n items? */
extern bool cdi_batch_takes(const CdiBatchLimits *limits, const CdiItem *first, int n, int64 bytes, const CdiItem *item);
/* Has the request no room for it, or for anything? */
extern bool cdi_batch_full(const CdiBatchLimits *limits, int n, int64 bytes, const CdiItem *item);
extern CdiBatchLimits cdi_request_limits(const CdiTarget *target, const json_t *action);

/*
 * An action is a sequence of stages, each a request and how its answer is
 * read: its steps, what it is about, and what comes then.
 */
extern int	cdi_action_stages(const json_t *action);
extern const json_t *cdi_action_stage(const json_t *action, int number);
/* Number of the stage that the action is about */
extern int	cdi_action_main_stage(const json_t *action);

/* Columns that it reads of a row which is sent as it is; it was checked when it was installed. */
extern void cdi_action_columns(const CdiSpec *spec, const json_t *action, const json_t *order, CdiColumns *columns);

/*
 * Raises where the request cannot be built from these settings.  NULL where
 * the stage is not wanted for these items.
 */
extern CdiRequest *cdi_request_build(const CdiTarget *target, const json_t *stage,
									 CdiItem **items, int nitems, Jsonb *steps);
/* Raises where name or value would break the request. */
extern bool cdi_header_name(const char *name);
extern void cdi_request_add_header(CdiRequest *request, const char *name, const char *value);
extern void cdi_request_check_url(const CdiRequest *request, const CdiTarget *target);

/* body.c */
extern void cdi_body_build(CdiRequest *request, const CdiScope *scope, const json_t *body);
extern void cdi_body_check(const json_t *body, CdiMapRules rules, const char *where);

/* auth.c */
extern void cdi_auth_apply(CdiRequest *request, const CdiScope *scope, const json_t *auth);
extern char *cdi_auth_jwt(const CdiScope *scope, const json_t *auth);
extern void cdi_auth_check(const json_t *auth, CdiMapRules rules, const char *where);

/* oauth.c: tokens that a destination's own server hands out */
typedef struct CdiToken
{
	char	   *access_token;	/* NULL: refused */
	char	   *refresh_token;	/* a new one, or NULL */
	int			expires_in;		/* s; 0: not said */
	bool		revoked;		/* only a person can help: access was taken back */
	bool		refused;		/* or what is asked for is wrong */
	char	   *error;			/* safe to show */
} CdiToken;

/* The part of "auth" that needs a token, with the secrets as they are; or NULL */
extern const json_t *cdi_oauth_part(const CdiTarget *target);
extern CdiRequest *cdi_oauth_request(const CdiTarget *target);
extern CdiToken *cdi_oauth_answer(const CdiTarget *target, const struct CdiAnswer *answer);
extern void cdi_oauth_check(const json_t *auth, const char *where);

/* sign.c: signatures; all raise where OpenSSL refuses */
extern char *cdi_sign_hmac(const char *algorithm, const char *encoding, const char *key,
						   const char *data, size_t len);
extern char *cdi_sign_jwt(const char *algorithm, const char *key, const char *header, const char *claims);
extern void cdi_sign_aws(CdiRequest *request, const char *service, const char *region, const char *access_key,
						 const char *secret_key, const char *session_token, TimestampTz now);
extern char *cdi_base64(const void *data, int len);
extern bool cdi_host_allowed(const CdiSpec *spec, const char *host);
extern const char *cdi_egress_setting(const CdiTarget *target);

/* response.c */
typedef enum CdiClass
{
	CDI_CLASS_OK,
	CDI_CLASS_REJECTED,			/* will not get better by sending it again */
	CDI_CLASS_SPLIT,			/* too large, or one row of many is bad */
	CDI_CLASS_RETRYABLE,
	CDI_CLASS_THROTTLED,
	CDI_CLASS_AUTH				/* nobody's row is wrong: pause and say so */
} CdiClass;

/* What came back, or did not. */
typedef struct CdiAnswer
{
	const char *headers;		/* lines "name: value", or NULL */
	int			status;			/* 0: no answer */
	const char *failure;		/* "network", "timeout" or "refused" where there
								 * was none, else NULL */
	const char *error;			/* text to that */
	const char *body;
	size_t		body_len;
	bool		cut;			/* there was more of it */
	int			retry_after;	/* s; 0: not said */
	double		milliseconds;
} CdiAnswer;

typedef struct CdiVerdict
{
	CdiClass	class;
	bool		split;			/* rejected as a whole: halve to find the row */
	const char *error;
	int			retry_after;	/* s; 0: not said */
	bool		unfinished;		/* ask again later: the stage polls */
	Jsonb	   *extract;		/* what the stage found, or NULL */
	/* rows that fared otherwise than the request; the arrays go by its rows */
	int			nrows;
	bool	   *named;			/* NULL: none */
	CdiClass   *row_classes;
	const char **row_errors;
} CdiVerdict;

/* A receiver that wants more is asked again all the same (s). */
#define CDI_MAX_RETRY_AFTER (24 * 60 * 60)

/* The body as JSON, or NULL where it is none */
extern Jsonb *cdi_answer_json(const CdiAnswer *answer);
/* The body as an array of objects whose members are named by its first line */
extern Jsonb *cdi_answer_csv(const CdiAnswer *answer);
/* What came over the network, as text that the database can hold */
extern char *cdi_answer_text(const char *data, size_t len);
/* ... and as one line of a table without the destination's secrets */
extern char *cdi_answer_presentable(const CdiTarget *target, const char *data, size_t len);
extern bool cdi_class_parse(const char *name, CdiClass *class);
extern const char *cdi_class_name(CdiClass class);
extern CdiVerdict *cdi_response_read(const CdiTarget *target, const json_t *stage,
									 const CdiAnswer *answer, CdiItem **items, int nitems, Jsonb *steps);
/* response_check.c */
extern void cdi_response_check(const json_t *stage, const CdiNames *names, const char *where);
/* Milliseconds between two questions of a stage that polls, and how long at most */
extern int	cdi_stage_poll(const json_t *stage, int64 *limit);

/* destination.c: raises where the argument is null */
extern char *cdi_text_argument(FunctionCallInfo fcinfo, int argument, const char *name);
/* NULL where the argument is */
extern char *cdi_optional_text(FunctionCallInfo fcinfo, int argument);
extern char *cdi_optional_json(FunctionCallInfo fcinfo, int argument);

/* armed.c */
typedef enum CdiArmed
{
	CDI_ARMED,
	CDI_NEVER_ARMED,
	CDI_DISARMED,
	CDI_ARMED_ELSEWHERE			/* this is a copy */
} CdiArmed;

/* SPI connected, as the owner */
extern CdiArmed cdi_armed_check(void);

/* sync.c: one run or replay of a sync at a time; held to the end of the
 * transaction, so that positions of a sync become visible in their order. */
extern void cdi_sync_lock(int32 sync_id);

#endif							/* CDI_ACTIVATE_H */
