/*
 * members.h
 *		Members of other protocols' objects, copied into ours.
 *
 * A dialect numbers the members it knows (an enum), gathers their values into
 * an array by those numbers, writes them from there (base/scan.h), and copies
 * what it does not know.
 */
#ifndef CDI_MEMBERS_H
#define CDI_MEMBERS_H

#include "collect/dialect.h"

/* What an event of this name is as a call: "track", but for those of the list
 * of names and types, which NULL ends. */
extern const char *cdi_members_type(CdiText name, const char *const (*types)[2]);

/* An object that is taken back where nothing was written into it */
extern int	cdi_members_open(StringInfo out, const char *name);
extern void cdi_members_close(StringInfo out, const char *name, int opened);

/* All members of an object into an open one; false where its own level is
 * malformed. */
extern bool cdi_members_copy(StringInfo out, CdiText object);
/* All but those of the list */
extern void cdi_members_copy_others(StringInfo out, CdiText object, const CdiWanted *but);

/* The first thing that is wrong with an element counts. */
extern void cdi_translation_fail(CdiTranslation *translation, int sqlstate, const char *message);
/* Its member of that name into an open object; what is there and no object
 * fails. */
extern void cdi_translation_copy(CdiTranslation *translation, CdiText object, const char *name);

#endif							/* CDI_MEMBERS_H */
