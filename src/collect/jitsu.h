/*
 * jitsu.h
 *		Between the files of Jitsu's dialect.
 */
#ifndef CDI_JITSU_H
#define CDI_JITSU_H

#include "collect/dialect.h"

/* jitsu_classic.c: what SDKs before 2023 send */
extern void cdi_jitsu_classic_unpack(CdiRequest *request);
extern void cdi_jitsu_classic_translate(CdiTranslation *translation);

#endif							/* CDI_JITSU_H */
