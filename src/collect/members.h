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

#include "collect/dialect.h"

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

/* An object that is taken back where nothing was written into it */
extern int	cdi_members_open(StringInfo out, const char *name);
extern void cdi_members_close(StringInfo out, const char *name, int opened);

/* All members of an object into an open one; false as above. */
extern bool cdi_members_copy(StringInfo out, CdiText object);
/* Those that the table lacks. */
extern void cdi_members_copy_others(StringInfo out, CdiText object, const CdiMember *table);

extern void cdi_members_write_number(StringInfo out, const char *name, int64 number);

/* The first thing that is wrong with an element counts. */
extern void cdi_translation_fail(CdiTranslation *translation, int sqlstate, const char *message);
/* Its member of that name into an open object; what is there and no object
 * fails. */
extern void cdi_translation_copy(CdiTranslation *translation, CdiText object, const char *name);

#endif							/* CDI_MEMBERS_H */
