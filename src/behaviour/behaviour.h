/*
 * behaviour.h
 *		Virtual events, and flows of events.
 */
#ifndef CDI_BEHAVIOUR_H
#define CDI_BEHAVIOUR_H

#include "base/base.h"

#include "nodes/nodes.h"

/*
 * virtual_predicate.c: parse a predicate over the columns of cdi.events, check
 * it and return it as canonical SQL: names resolved, columns prefixed with the
 * alias, if one is given.  With total, the predicate must not be able to fail
 * on any event.  Raises with the position in the predicate.
 */
extern char *cdi_predicate_canonical(const char *predicate, const char *alias, bool total);

#endif							/* CDI_BEHAVIOUR_H */
