/*
 * identifier.h
 *		Kinds of identifier: where a call has them, how their values are
 *		normalised and which of them identify nobody.
 */
#ifndef CDI_IDENTIFIER_H
#define CDI_IDENTIFIER_H

#include "base/base.h"

/* What an identifier identifies: the graph that its links belong to. */
typedef enum CdiGraphKind
{
	CDI_GRAPH_PERSON,
	CDI_GRAPH_ACCOUNT,
	CDI_GRAPH_HOUSEHOLD
} CdiGraphKind;

#define CDI_GRAPHS 3

/* What becomes of a value; the words of cdi.identity_refusals.reason */
typedef enum CdiVerdict
{
	CDI_USABLE,
	CDI_ABSENT,					/* empty, blank or nobody's: no identifier at all */
	CDI_BLOCKED,
	CDI_MALFORMED,
	CDI_TOO_LONG,
	CDI_TOO_MANY,
	CDI_NORMALISER_FAILED,
	CDI_UNKNOWN_TYPE,
	CDI_ERASED
} CdiVerdict;

#define CDI_MAX_IDENTIFIER_LENGTH 512

typedef enum CdiNormaliserKind
{
	CDI_NORMALISE_TRIM,
	CDI_NORMALISE_LOWER,
	CDI_NORMALISE_EMAIL,
	CDI_NORMALISE_PHONE,
	CDI_NORMALISE_FUNCTION
} CdiNormaliserKind;

typedef struct CdiNormaliser
{
	CdiNormaliserKind kind;
	const char *country;		/* of a phone number that has no code; or NULL */
	const char *function;		/* qualified and quoted; NULL: cannot be called */
	const char *role;			/* that it runs as */
} CdiNormaliser;

/*
 * path.c: places in a call, such as traits.email, compiled into a tree of the
 * members that any type looks for, so that one walk over an object finds all
 * of them.
 */
typedef struct CdiPathNode
{
	CdiText		key;
	int			slot;			/* where its value goes; -1: nowhere */
	int			nchildren;
	struct CdiPathNode **children;	/* in the order of jsonb's keys */
} CdiPathNode;

/* Members of the call that are fields of the event have the first slots. */
typedef enum CdiFieldSlot
{
	CDI_SLOT_USER_ID,
	CDI_SLOT_ANONYMOUS_ID,
	CDI_SLOT_GROUP_ID,
	CDI_SLOT_PREVIOUS_ID,
	CDI_FIELD_SLOTS
} CdiFieldSlot;

/* Objects of the event that paths begin in; extra has all other members. */
typedef enum CdiPathRoot
{
	CDI_ROOT_TRAITS,
	CDI_ROOT_CONTEXT,
	CDI_ROOT_PROPERTIES,
	CDI_ROOT_EXTRA,
	CDI_PATH_ROOTS
} CdiPathRoot;

typedef struct CdiPathTree
{
	CdiPathNode roots[CDI_PATH_ROOTS];
	int			nslots;
} CdiPathTree;

/*
 * PATH, or PATH+PATH for both values with ":" between them; behind it
 * ?PATH=VALUE&PATH=VALUE... for when that is to be looked at
 */
typedef struct CdiPathCondition
{
	int			slot;
	CdiText		value;
} CdiPathCondition;

typedef struct CdiTypePath
{
	int			prefix_slot;	/* -1: none */
	int			slot;
	bool		in_traits;		/* of the call: a group call's are the group's */
	int			nconditions;
	CdiPathCondition *conditions;
} CdiTypePath;

extern void cdi_path_tree_init(CdiPathTree *tree);
/*
 * Adds a path to the tree; what it allocates lives in the current context.
 * Returns NULL, or what is wrong with the path.
 */
extern const char *cdi_path_add(CdiPathTree *tree, const char *path, CdiTypePath *compiled);

/*
 * normaliser.c.  A value is screened, normalised (by C code, or by the function
 * of its type) and screened again; each step may refuse it.
 */
struct CdiIdentifierType;

/* Returns NULL, or what is wrong with the specification. */
extern const char *cdi_normaliser_parse(const char *spec, const char *role, CdiNormaliser *normaliser);
/* Takes white space away; absent, too long and blocked values end here. */
extern CdiVerdict cdi_identifier_screen(const struct CdiIdentifierType *type, CdiText *value);
/*
 * Of a screened value, where the normaliser is no function; what comes out is
 * screened already.  *detail becomes the reason of a refusal.
 */
extern CdiVerdict cdi_identifier_normalise(const struct CdiIdentifierType *type, CdiText *value,
										   const char **detail);
extern const char *cdi_verdict_name(CdiVerdict verdict);
extern CdiText cdi_blank_trim(CdiText text);

/* phone.c: E.164 of a number, or NULL and what is wrong with it */
extern const char *cdi_phone_normalise(CdiText number, const char *country, const char **problem);
extern bool cdi_phone_code_assigned(const char *code);

/*
 * normaliser_function.c: values for SQL functions that normalise, one
 * statement per type and batch.  A function that raises spoils its own value
 * only.  SPI is connected.
 */
typedef struct CdiNormaliserCall
{
	const struct CdiIdentifierType *type;
	CdiText		value;			/* becomes what it returned */
	const char *error;			/* what it raised, or NULL */
} CdiNormaliserCall;

extern void cdi_normaliser_run(CdiNormaliserCall *calls, int n);
/* One value; raises what the function raises. */
extern CdiText cdi_normaliser_call(const struct CdiIdentifierType *type, CdiText value);

#endif							/* CDI_IDENTIFIER_H */
