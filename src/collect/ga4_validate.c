#include "postgres.h"
#include "collect/ga4.h"
void
cdi_ga4_validate(const CdiRequest *request, StringInfo out)
{
	appendStringInfoString(out, "{\"validationMessages\":[]}");
}
