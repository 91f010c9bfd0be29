/*
 * population.c
 *		Who the simulated people are, and what the simulated shop sells.
 *
 * A profile depends on the seed and the person's number alone: the same seed
 * with another start brings the same people back to the shop.  The only
 * arguments that can change a profile are the shares of anomalies and of
 * recycled addresses, and they leave everyone whom they do not choose as they
 * were.
 *
 * Identifiers cannot collide by construction: a user id is a bijection of the
 * person's number, an e-mail address ends in its first owner's number, and a device's
 * anonymous id is a 122-bit hash of person and device.  Addresses and hosts
 * are in the names and networks reserved for examples and benchmarks (RFC
 * 2606, 5737, 2544), so that no simulated call can name a real person.
 */
#include "postgres.h"

#include "simulate/simulate.h"

#define DEVICE_STREAM	UINT64CONST(0x6465766963650000)
#define USER_STREAM		UINT64CONST(0x7573657200000000)
#define ANOMALY_STREAM	UINT64CONST(0x616e6f6d616c7900)
#define PROFILE_STREAM	UINT64CONST(0x70726f66696c6500)
#define RECYCLED_STREAM	UINT64CONST(0x72656379636c6500)

#define MEMBERS_PERCENT	90

/* how far back a person looks for someone to share a device with */
#define NEIGHBOURS		16

static const char *const first_names[] = {
	"Ada", "Amir", "Anna", "Bilal", "Bruno", "Carla", "Chen", "Clara",
	"Daniel", "Dora", "Elena", "Emil", "Fatima", "Felix", "Grace", "Hana",
	"Hugo", "Ines", "Ivan", "Jonas", "Julia", "Kofi", "Laura", "Leo",
	"Lucia", "Marta", "Mateo", "Mila", "Nadia", "Noah", "Olga", "Omar",
	"Paula", "Pedro", "Rosa", "Samir", "Sofia", "Tariq", "Vera", "Yuki"
};

static const char *const last_names[] = {
	"Adler", "Bauer", "Becker", "Costa", "Dubois", "Eriksen", "Fischer",
	"Fontana", "Garcia", "Haas", "Hansen", "Ivanov", "Jansen", "Keller",
	"Kovacs", "Lang", "Larsen", "Lopez", "Marino", "Meyer", "Moreau",
	"Nakamura", "Novak", "Okafor", "Olsen", "Patel", "Peters", "Ricci",
	"Rossi", "Sanchez", "Schmidt", "Silva", "Singh", "Tanaka", "Torres",
	"Vogel", "Wagner", "Weber", "Wolf", "Zimmer"
};

static const CdiPlace places[] = {
	{"Berlin", "DE", "de-DE", "Europe/Berlin"},
	{"Paris", "FR", "fr-FR", "Europe/Paris"},
	{"Madrid", "ES", "es-ES", "Europe/Madrid"},
	{"Rome", "IT", "it-IT", "Europe/Rome"},
	{"Amsterdam", "NL", "nl-NL", "Europe/Amsterdam"},
	{"Dublin", "IE", "en-IE", "Europe/Dublin"},
	{"Vienna", "AT", "de-AT", "Europe/Vienna"},
	{"Lisbon", "PT", "pt-PT", "Europe/Lisbon"}
};

static const char *const adjectives[] = {
	"Alpine", "Classic", "Compact", "Daily", "Feather", "Granite",
	"Harbour", "Light", "Meadow", "Nordic", "Summit", "Urban"
};

static const struct
{
	const char *name;
	int			category;
}			nouns[] = {
	{"Backpack", 0}, {"Daypack", 0}, {"Duffel", 0}, {"Tote", 0},
	{"Boots", 1}, {"Runner", 1}, {"Sandals", 1}, {"Trainer", 1},
	{"Fleece", 2}, {"Jacket", 2}, {"Parka", 2}, {"Vest", 2},
	{"Bottle", 3}, {"Lantern", 3}, {"Stove", 3}, {"Tent", 3},
	{"Beanie", 4}, {"Belt", 4}, {"Gloves", 4}, {"Scarf", 4}
};

static const char *const categories[] = {
	"Bags", "Shoes", "Clothing", "Camping", "Accessories"
};

static const char *const brands[] = {
	"Fjordline", "Halden", "Kestrel", "Northpeak", "Tarn", "Wayfarer"
};

/* Finaliser of splitmix64: a bijection that spreads every bit. */
uint64
cdi_simulate_mix(uint64 value)
{
	value ^= value >> 30;
	value *= UINT64CONST(0xbf58476d1ce4e5b9);
	value ^= value >> 27;
	value *= UINT64CONST(0x94d049bb133111eb);
	value ^= value >> 31;
	return value;
}

/* A key for something that belongs to key and is told apart by a and b. */
uint64
cdi_simulate_key(uint64 key, uint64 a, uint64 b)
{
	key = cdi_simulate_mix(key + UINT64CONST(0x9e3779b97f4a7c15));
	key = cdi_simulate_mix(key ^ (a + UINT64CONST(0x9e3779b97f4a7c15)));
	key = cdi_simulate_mix(key ^ (b + UINT64CONST(0xd1b54a32d192ed03)));
	return key;
}

uint64
cdi_simulate_next(CdiRandom *random)
{
	random->state += UINT64CONST(0x9e3779b97f4a7c15);
	return cdi_simulate_mix(random->state);
}

/* 0 .. limit - 1 */
int
cdi_simulate_below(CdiRandom *random, int limit)
{
	return (int) (((cdi_simulate_next(random) >> 32) * (uint64) limit) >> 32);
}

bool
cdi_simulate_chance(CdiRandom *random, int percent)
{
	return cdi_simulate_below(random, 100) < percent;
}

/* 0 <= result < 1, exact in a double, hence the same on every machine. */
double
cdi_simulate_share(uint64 bits)
{
	return (double) (bits >> 11) / 9007199254740992.0;
}

/* A version 4 UUID of the given bits; result takes 37 bytes. */
void
cdi_simulate_format_uuid(uint64 high, uint64 low, char *result)
{
	static const char digits[] = "0123456789abcdef";
	char	   *out = result;

	high = (high & ~UINT64CONST(0xf000)) | UINT64CONST(0x4000);
	low = (low & ~(UINT64CONST(3) << 62)) | (UINT64CONST(1) << 63);
	for (int shift = 60; shift >= 0; shift -= 4)
	{
		*out++ = digits[(high >> shift) & 15];
		if (shift == 32 || shift == 16 || shift == 0)
			*out++ = '-';
	}
	for (int shift = 60; shift >= 0; shift -= 4)
	{
		*out++ = digits[(low >> shift) & 15];
		if (shift == 48)
			*out++ = '-';
	}
	*out = '\0';
}

static void
fill_device(const CdiSimulationPlan *plan, int32 number, int position,
			bool browser_only, CdiDevice *device)
{
	CdiRandom	random;
	uint64		high;
	uint64		low;
	int			network;

	random.state = cdi_simulate_key(plan->identity_key ^ DEVICE_STREAM,
									(uint64) number, (uint64) position);
	high = cdi_simulate_next(&random);
	low = cdi_simulate_next(&random);
	cdi_simulate_format_uuid(high, low, device->anonymous_id);

	if (position == 0)
		device->kind = cdi_simulate_chance(&random, 60) ? CDI_DEVICE_DESKTOP : CDI_DEVICE_PHONE;
	else if (browser_only || cdi_simulate_chance(&random, 65))
		device->kind = cdi_simulate_chance(&random, 35) ? CDI_DEVICE_DESKTOP : CDI_DEVICE_PHONE;
	else
		device->kind = CDI_DEVICE_APP;
	device->model = cdi_simulate_below(&random, 12);

	/* 198.18.0.0/15 is set aside for benchmarks */
	network = cdi_simulate_below(&random, 1 << 17);
	snprintf(device->ip, sizeof(device->ip), "198.%d.%d.%d",
			 18 + (network >> 16), (network >> 8) & 255, network & 255);
}

/* A member's own address, the number of whose owner stays in it. */
static void
write_email(const CdiSimulationPlan *plan, int32 number, int first_name, int last_name,
			char *email, size_t size)
{
	snprintf(email, size, "%s.%s%d@s" INT64_FORMAT ".example.com",
			 first_names[first_name], last_names[last_name], number, plan->seed);
	for (char *out = email; *out; out++)
		*out = pg_ascii_tolower((unsigned char) *out);
}

/* Starts the stream that a profile is drawn from; its first draw is made. */
static bool
is_member(const CdiSimulationPlan *plan, int32 number, CdiRandom *random)
{
	random->state = cdi_simulate_key(plan->identity_key ^ PROFILE_STREAM,
									 (uint64) number, 0);
	return cdi_simulate_chance(random, MEMBERS_PERCENT);
}

/*
 * Of two people, 2k - 1 and 2k, the second may take over the address of the
 * first.  So it changes hands once, nobody takes what was taken, and neither
 * depends on how many people follow.  Only a member whose number is even and
 * who comes behind a member can be a taker: the share is out of those.
 */
static CdiRecycling
recycling_of(const CdiSimulationPlan *plan, int32 number)
{
	int32		partner = number % 2 == 1 ? number + 1 : number - 1;
	double		eligible = 0.5 * MEMBERS_PERCENT / 100;
	CdiRandom	random;

	if (plan->recycled <= 0 || number == PG_INT32_MAX || !is_member(plan, partner, &random))
		return CDI_RECYCLING_NONE;
	random.state = cdi_simulate_key(plan->identity_key ^ RECYCLED_STREAM,
									(uint64) Max(number, partner), 0);
	if (cdi_simulate_share(cdi_simulate_next(&random)) >= plan->recycled / eligible)
		return CDI_RECYCLING_NONE;
	return partner > number ? CDI_RECYCLING_GIVER : CDI_RECYCLING_TAKER;
}

/*
 * Everything of a profile that no anomaly touches.
 */
static void
fill_basics(const CdiSimulationPlan *plan, int32 number, CdiProfile *profile)
{
	CdiRandom	random;

	profile->number = number;
	profile->member = is_member(plan, number, &random);
	profile->first_name = cdi_simulate_below(&random, lengthof(first_names));
	profile->last_name = cdi_simulate_below(&random, lengthof(last_names));
	profile->place = cdi_simulate_below(&random, lengthof(places));
	profile->plan = cdi_simulate_below(&random, 10);
	profile->company = cdi_simulate_below(&random, 1000);
	if (profile->company >= 120)
		profile->company = -1;
	profile->aliases = cdi_simulate_chance(&random, 4);
	profile->created_day = cdi_simulate_below(&random, 1800);
	profile->ndevices = 1;
	if (profile->member)
	{
		int			draw = cdi_simulate_below(&random, 100);

		profile->ndevices = draw < 45 ? 1 : draw < 85 ? 2 : 3;
	}
	profile->anomaly = CDI_ANOMALY_NONE;
	profile->wrong_email[0] = '\0';

	/* the mixer is a bijection, so two people of a seed never share an id */
	snprintf(profile->user_id, sizeof(profile->user_id), "u_%016llx",
			 (unsigned long long) cdi_simulate_mix((plan->identity_key ^ USER_STREAM) +
												   (uint64) number));
	profile->recycling = profile->member ? recycling_of(plan, number) : CDI_RECYCLING_NONE;
	if (profile->recycling == CDI_RECYCLING_TAKER)
	{
		CdiProfile	giver;

		fill_basics(plan, number - 1, &giver);
		strlcpy(profile->email, giver.email, sizeof(profile->email));
	}
	else
		write_email(plan, number, profile->first_name, profile->last_name,
					profile->email, sizeof(profile->email));
}

/*
 * The nearest member who came before, as someone to share a device with or
 * to be mistaken for.  Looking back only keeps a story independent of how
 * many people follow.
 */
static bool
find_neighbour(const CdiSimulationPlan *plan, int32 number, CdiProfile *neighbour)
{
	for (int32 other = number - 1; other > 0 && other >= number - NEIGHBOURS; other--)
	{
		fill_basics(plan, other, neighbour);
		if (neighbour->member)
			return true;
	}
	return false;
}

/*
 * The profile of person number.
 *
 * A borrowed device stands behind the person's own ones and is counted by
 * ndevices.
 */
void
cdi_simulate_fill_profile(const CdiSimulationPlan *plan, int32 number,
						  CdiProfile *profile)
{
	CdiRandom	random;

	fill_basics(plan, number, profile);
	for (int i = 0; i < profile->ndevices; i++)
		fill_device(plan, number, i, !profile->member, &profile->devices[i]);

	if (plan->anomalies <= 0 || !profile->member)
		return;
	random.state = cdi_simulate_key(plan->identity_key ^ ANOMALY_STREAM,
									(uint64) number, 0);
	if (cdi_simulate_share(cdi_simulate_next(&random)) >= plan->anomalies)
		return;
	else
	{
		CdiProfile	neighbour;
		bool		found = find_neighbour(plan, number, &neighbour);
		int			draw = cdi_simulate_below(&random, 100);

		if (found && draw < 50)
		{
			profile->anomaly = CDI_ANOMALY_SHARED_DEVICE;
			fill_device(plan, neighbour.number, 0, false,
						&profile->devices[profile->ndevices++]);
		}
		else if (found && draw < 75)
		{
			profile->anomaly = CDI_ANOMALY_WRONG_EMAIL;
			strlcpy(profile->wrong_email, neighbour.email, sizeof(profile->wrong_email));
		}
		else
		{
			/* of the own address, which nobody else has, also not mistyped */
			profile->anomaly = CDI_ANOMALY_MISTYPED_EMAIL;
			write_email(plan, number, profile->first_name, profile->last_name,
						profile->wrong_email + 1, sizeof(profile->wrong_email) - 1);
			profile->wrong_email[0] = profile->wrong_email[1];
		}
	}
}

/*
 * What the shop sells; the same for every seed.  Allocated in the current
 * memory context.
 */
CdiProduct *
cdi_simulate_make_catalogue(void)
{
	static const int cents[] = {99, 99, 95, 50, 0};
	CdiProduct *catalogue = palloc(sizeof(CdiProduct) * CDI_PRODUCTS);

	StaticAssertStmt(lengthof(adjectives) * lengthof(nouns) == CDI_PRODUCTS,
					 "every product needs a name of its own");
	for (int i = 0; i < CDI_PRODUCTS; i++)
	{
		CdiProduct *product = &catalogue[i];
		const char *adjective = adjectives[i % lengthof(adjectives)];
		int			noun = i / lengthof(adjectives);
		CdiRandom	random = {cdi_simulate_key(1, 2, (uint64) i)};
		int			whole = 9 + cdi_simulate_below(&random, 140);

		snprintf(product->sku, sizeof(product->sku), "SKU-%05d", 10000 + 37 * i);
		snprintf(product->product_id, sizeof(product->product_id), "p_%04d", i + 1);
		snprintf(product->name, sizeof(product->name), "%s %s", adjective, nouns[noun].name);
		snprintf(product->slug, sizeof(product->slug), "%s-%s", adjective, nouns[noun].name);
		for (char *out = product->slug; *out; out++)
			*out = pg_ascii_tolower((unsigned char) *out);
		product->brand = brands[cdi_simulate_below(&random, lengthof(brands))];
		product->category_number = nouns[noun].category;
		product->category = categories[nouns[noun].category];
		product->price_cents = whole * 100 +
			cents[cdi_simulate_below(&random, lengthof(cents))];
		product->price = int64_div_fast_to_numeric(product->price_cents, 2);
	}
	return catalogue;
}

const char *
cdi_simulate_first_name(const CdiProfile *profile)
{
	return first_names[profile->first_name];
}

const char *
cdi_simulate_last_name(const CdiProfile *profile)
{
	return last_names[profile->last_name];
}

const CdiPlace *
cdi_simulate_place(const CdiProfile *profile)
{
	return &places[profile->place];
}

const char *
cdi_simulate_category(int number)
{
	return categories[number % lengthof(categories)];
}
