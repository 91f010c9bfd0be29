/*
 * traits.h
 *		What is known of identifiers besides who they are: traits that calls
 *		set, and traits computed from events.
 *
 * All state is kept per identifier and never merged.  A person's value is
 * combined over the person's identifiers when it is read, so that a merge and
 * an unmerge change the map and nothing here.
 */
#ifndef CDI_TRAITS_H
#define CDI_TRAITS_H

#include "base/base.h"

#include "utils/jsonb.h"

/*
 * traits.c: traits read with a batch of links, as the arrays that SQL takes.
 */
typedef struct CdiTraitRows
{
	int			count;
	Size		bytes;
	MemoryContext context;
	struct ArrayBuildState *identifiers;
	struct ArrayBuildState *traits;
	struct ArrayBuildState *times;
	struct ArrayBuildState *positions;
	struct ArrayBuildState *sources;
} CdiTraitRows;

extern void cdi_traits_begin(CdiTraitRows *rows, MemoryContext context);
/* traits is a jsonb */
extern void cdi_traits_append(CdiTraitRows *rows, const pg_uuid_t *identifier, Datum traits,
							  TimestampTz set_at, int64 position, int32 source_id);
/* Resolver's lock held, SPI connected, as the owner */
extern void cdi_traits_record(CdiTraitRows *rows);

/*
 * computed.c: declarations of computed traits, cached per backend, and what an
 * event adds to them.
 */
typedef enum CdiAggregate
{
	CDI_COUNT,
	CDI_SUM,
	CDI_MIN,
	CDI_MAX,
	CDI_FIRST,
	CDI_LAST,
	CDI_MOST_FREQUENT
} CdiAggregate;

typedef struct CdiComputedTrait
{
	int32		trait_id;
	CdiAggregate aggregate;
	CdiText		type;
	CdiText		event;			/* data == NULL: any */
	int			npath;
	CdiText    *path;			/* into properties */
	Jsonb	   *filter;			/* that properties must contain, or NULL */
} CdiComputedTrait;

/*
 * What one event adds: a number, a value, or neither, where the event has
 * something that the aggregate cannot use.
 */
typedef struct CdiContribution
{
	bool		has_number;
	Datum		number;			/* numeric */
	Jsonb	   *value;			/* or NULL */
} CdiContribution;

/*
 * All that are declared.  Whoever stores events asks after the events have
 * their positions: computed_fold.c relies on it.  SPI connected, as the owner.
 */
extern const CdiComputedTrait *cdi_computed_traits(int *count);
/* False: nothing.  type and event of the trait have been compared already. */
extern bool cdi_computed_contribution(const CdiComputedTrait *trait, Jsonb *properties,
									  CdiContribution *contribution);

/*
 * computed_fold.c: fold what events have added since the last run, and count
 * history for traits that are new.  SPI connected, as the owner; takes the
 * resolver's lock if there is anything to do.
 */
extern void cdi_computed_fold(void);
/* Whether the last call of this backend has left history for the next one */
extern bool cdi_computed_more_history(void);

/*
 * person_traits.c: persons and traits of n identifiers' keys, as of the last
 * fold; names NULL: all traits.  read_only: with the active snapshot.  Traits
 * are NULL where there are none.  Results are in the current context.
 */
typedef struct CdiPersonTraits
{
	pg_uuid_t	key;
	pg_uuid_t	person_id;
	Jsonb	   *traits;
} CdiPersonTraits;

extern void cdi_person_traits_lookup(CdiPersonTraits *persons, int n,
									 char **names, int nnames, bool read_only);

#endif							/* CDI_TRAITS_H */
