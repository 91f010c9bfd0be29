/*
 * gather.h
 *		Several members of an object, found in one walk.
 */
#ifndef CDI_GATHER_H
#define CDI_GATHER_H

#include "base/scan.h"

/* A member that is wanted, and where its value is to be put */
typedef struct CdiWanted
{
	const char *name;
	int			len;
	int			slot;
} CdiWanted;

#define CDI_WANTED(name, slot) {name, sizeof(name) - 1, slot}
#define CDI_WANTED_END {NULL, 0, 0}

/* NULL where it is none of them. */
extern const CdiWanted *cdi_wanted_find(const CdiWanted *wanted, CdiText key);

/* Into values[slot], the last member of a name; what is absent is left alone.
 * False where the object's own level is malformed. */
extern bool cdi_gather(CdiText object, const CdiWanted *wanted, CdiText *values);

/* As a member, unless it is absent or null. */
extern void cdi_write_present(StringInfo out, const char *name, CdiText value);

/*
 * Members of objects within an object: {"os": {"name": ...}, ...}.  Those of
 * one object stand together; an object without any is not written.
 */
typedef struct CdiPart
{
	const char *object;
	const char *member;
	int			slot;
} CdiPart;

extern void cdi_write_parts(StringInfo out, const CdiPart *parts, const CdiText *values);

#endif							/* CDI_GATHER_H */
