/*
 * members.h
 *		Members of other protocols' objects, found by a table of their names
 *		and written under ours.
 *
 * A dialect numbers the members it knows (an enum), gathers their values into
 * an array by those numbers and writes from there.
 */
#ifndef CDI_MEMBERS_H
#define CDI_MEMBERS_H

#include "base/scan.h"

typedef struct CdiMember
{
	const char *name;			/* NULL ends a table */
	int			slot;
} CdiMember;

/* Where a value stands in our object: in itself, or in an object of it.  Of
 * neighbours with the same place the first that has a value counts. */
typedef struct CdiPlace
{
	const char *object;			/* or NULL */
	const char *member;			/* NULL ends a table */
	int			slot;
} CdiPlace;

/* Values of the members that are in the table; false where the object's own
 * level is malformed. */
extern bool cdi_members_gather(CdiText object, const CdiMember *table, CdiText *values);

/* A value that is there and not null */
extern void cdi_members_write(StringInfo out, const char *name, CdiText value);

/* Values that are there into an open object.  Places of the same object have
 * to be neighbours. */
extern void cdi_members_place(StringInfo out, const CdiPlace *places, const CdiText *values);

/* All members of an object into an open one; false as above. */
extern bool cdi_members_copy(StringInfo out, CdiText object);
/* Those that the table lacks. */
extern void cdi_members_copy_others(StringInfo out, CdiText object, const CdiMember *table);

#endif							/* CDI_MEMBERS_H */
