/*
 * secret.c
 *		The secrets of a destination, for its specification to read.
 */
#include "activate/activate.h"

#include "base/errors.h"
#include "base/secret.h"

static void
unavailable(const char *reference, const char *reason)
{
	ereport(ERROR,
			(errcode(ERRCODE_CDI_SECRET_UNAVAILABLE),
			 errmsg("secret \"%s\" is not available", reference),
			 errdetail("%s", reason)));
}

/* JSON holds UTF-8; anything else would silently be no secret at all. */
static void
set_secret(json_t *object, const char *name, const char *reference)
{
	bool		is_reference = cdi_secret_is_reference(reference);
	char	   *value = is_reference ? cdi_secret_read(reference) : pstrdup(reference);

	/* A header that it goes into may have one line; a key in PEM format goes into none. */
	if (strpbrk(value, "\r\n") != NULL && strncmp(value, "-----BEGIN ", 11) != 0)
		unavailable(is_reference ? reference : name, "It has more than one line.");
	if (json_object_set_new(object, name, json_string(value)) != 0)
		unavailable(is_reference ? reference : name, "It is not UTF-8 text.");
}

json_t *
cdi_secrets_resolve(const CdiSpec *spec, const json_t *settings, MemoryContext context)
{
	json_t	   *secrets = cdi_json_own(context, cdi_json_object());
	const char *name;
	json_t	   *property;

	json_object_foreach(json_object_get(json_object_get(spec->root, "settings"), "properties"), name, property)
	{
		json_t	   *value = json_object_get(settings, name);
		const char *inner;
		json_t	   *reference;

		if (value == NULL || json_object_get(property, "secret") == NULL)
			continue;
		if (json_is_string(value))
		{
			set_secret(secrets, name, json_string_value(value));
			continue;
		}
		json_object_set_new(secrets, name, cdi_json_object());
		json_object_foreach(value, inner, reference)
			set_secret(json_object_get(secrets, name), inner, json_string_value(reference));
	}
	return secrets;
}
