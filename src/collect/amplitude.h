/*
 * amplitude.h
 *		What the files of Amplitude's dialect share.
 */
#ifndef CDI_AMPLITUDE_H
#define CDI_AMPLITUDE_H

#include "collect/dialect.h"

/* amplitude_event.c */
extern void cdi_amplitude_translate(CdiTranslation *translation);

#endif							/* CDI_AMPLITUDE_H */
