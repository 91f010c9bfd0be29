/*
 * people_key.c
 *		Several keys of people as one.
 *
 * Each is a byte that says whether it is null, and its value: as many bytes as
 * its type has, or their number and then the bytes.  Two such keys are equal
 * where their bytes are, as the keys in them.
 */
#include "behaviour/people.h"

#include "access/tupmacs.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"

Datum
cdi_people_key_pack(StringInfo buffer, const CdiPeopleKey *keys, int nkeys,
					const Datum *values, const bool *isnull)
{
	resetStringInfo(buffer);
	appendStringInfoSpaces(buffer, VARHDRSZ);
	for (int i = 0; i < nkeys; i++)
	{
		appendStringInfoChar(buffer, isnull[i]);
		if (isnull[i])
			continue;
		if (keys[i].typbyval)
		{
			Datum		image;

			store_att_byval(&image, values[i], keys[i].typlen);
			appendBinaryStringInfo(buffer, (char *) &image, keys[i].typlen);
		}
		else if (keys[i].typlen > 0)
			appendBinaryStringInfo(buffer, DatumGetPointer(values[i]), keys[i].typlen);
		else
		{
			struct varlena *value = PG_DETOAST_DATUM_PACKED(values[i]);
			uint32		size = VARSIZE_ANY_EXHDR(value);

			appendBinaryStringInfo(buffer, (char *) &size, sizeof(uint32));
			appendBinaryStringInfo(buffer, VARDATA_ANY(value), size);
		}
	}
	SET_VARSIZE(buffer->data, buffer->len);
	return PointerGetDatum(buffer->data);
}

void
cdi_people_key_unpack(Datum packed, const CdiPeopleKey *keys, int nkeys, Datum *values, bool *isnull)
{
	const char *place = VARDATA(DatumGetPointer(packed));

	for (int i = 0; i < nkeys; i++)
	{
		uint32		size = cdi_people_key_size(&keys[i]);

		values[i] = (Datum) 0;
		isnull[i] = *place++;
		if (isnull[i])
			continue;
		if (size == 0)
		{
			memcpy(&size, place, sizeof(uint32));
			place += sizeof(uint32);
			values[i] = PointerGetDatum(cstring_to_text_with_len(place, size));
		}
		else if (keys[i].typbyval)
		{
			memcpy(&values[i], place, size);
			values[i] = fetch_att(&values[i], true, size);
		}
		else
		{
			values[i] = PointerGetDatum(palloc(size));
			memcpy(DatumGetPointer(values[i]), place, size);
		}
		place += size;
	}
}
