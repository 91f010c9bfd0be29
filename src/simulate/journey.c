/*
 * journey.c
 *		What one simulated person does: sessions, calls, and how they arrive.
 *
 * A story is drawn from a random stream of its own, keyed by the seed, the
 * span of time and the person's number.  Whether a call is late or sent twice
 * is hashed from the call itself, so those shares change how traffic arrives
 * and never what happened.
 *
 * The promises that the truth functions rest on are kept by construction.
 * The span is cut into equal slots of at least MIN_SLOT, one session each; a
 * session begins so early in its slot that it ends at least MIN_GAP before
 * the next slot, on whatever device that is.  Pauses within a session are
 * shorter than MAX_PAUSE.  Every device of a member has a session with a
 * login, and a visitor has one device and one session.
 */
#include "postgres.h"

#include "simulate/simulate.h"
#include "utils/builtins.h"

#define JOURNEY_STREAM	UINT64CONST(0x6a6f75726e657900)
#define ARRIVAL_STREAM	UINT64CONST(0x6172726976616c00)
#define MESSAGE_STREAM	UINT64CONST(0x6d65737361676500)

#define MIN_SLOT		(4 * CDI_MS_PER_HOUR)
#define MAX_SESSION		(2 * CDI_MS_PER_HOUR)
#define MIN_GAP			CDI_MS_PER_HOUR
#define MAX_PAUSE		(25 * CDI_MS_PER_MINUTE)

const CdiChannelSpec cdi_simulate_channels[CDI_CHANNELS] = {
	[CDI_CHANNEL_PAID_SEARCH] = {
		.name = "paid_search",
		.weight_first = 190, .weight_later = 80, .intent = 40,
		.tagged = true, .medium = "cpc",
		.click_parameter = "gclid", .click_prefix = "EAIaIQobChMI",
		.sources = {"google", "google", "google"},
		.referrers = {"https://www.google.com/", "https://www.google.com/", "https://www.google.com/"},
		.campaigns = {
			{"brand", "shop+example", "text-a"},
			{"hiking-boots", "hiking+boots", "text-b"},
			{"tents", "light+tent", "text-c"}
		}
	},
	[CDI_CHANNEL_ORGANIC_SEARCH] = {
		.name = "organic_search",
		.weight_first = 230, .weight_later = 120, .intent = 35,
		.medium = "organic",
		.sources = {"google", "google", "google"},
		.referrers = {"https://www.google.com/", "https://www.google.com/", "https://www.google.com/"}
	},
	[CDI_CHANNEL_PAID_SOCIAL] = {
		.name = "paid_social",
		.weight_first = 140, .weight_later = 50, .intent = 22,
		.tagged = true, .medium = "paid_social",
		.click_parameter = "fbclid", .click_prefix = "IwAR",
		.sources = {"facebook", "facebook", "facebook"},
		.referrers = {"https://l.facebook.com/", "https://m.facebook.com/", "https://l.facebook.com/"},
		.campaigns = {
			{"spring-lookalike", "lookalike-1", "carousel"},
			{"retargeting", "cart-30d", "video"},
			{"new-arrivals", "interest-outdoor", "story"}
		}
	},
	[CDI_CHANNEL_ORGANIC_SOCIAL] = {
		.name = "organic_social",
		.weight_first = 90, .weight_later = 50, .intent = 20,
		.medium = "social",
		.sources = {"twitter", "instagram", "instagram"},
		.referrers = {"https://t.co/", "https://www.instagram.com/", "https://www.instagram.com/"}
	},
	[CDI_CHANNEL_EMAIL] = {
		.name = "email",
		.weight_first = 40, .weight_later = 190, .intent = 45,
		.tagged = true, .medium = "email",
		.sources = {"newsletter", "newsletter", "newsletter"},
		.referrers = {"", "", ""},
		.campaigns = {
			{"weekly-digest", "all", "hero"},
			{"abandoned-cart", "cart", "button"},
			{"season-sale", "vip", "footer"}
		}
	},
	[CDI_CHANNEL_REFERRAL] = {
		.name = "referral",
		.weight_first = 70, .weight_later = 30, .intent = 30,
		.medium = "referral",
		.sources = {"blog.trailnotes.example", "packlist.example", "blog.trailnotes.example"},
		.referrers = {
			"https://blog.trailnotes.example/best-tents",
			"https://packlist.example/weekend",
			"https://blog.trailnotes.example/boots-compared"
		}
	},
	[CDI_CHANNEL_AFFILIATE] = {
		.name = "affiliate",
		.weight_first = 60, .weight_later = 40, .intent = 42,
		.tagged = true, .medium = "affiliate",
		.sources = {"dealhive", "couponcove", "dealhive"},
		.referrers = {"https://dealhive.example/", "https://couponcove.example/", "https://dealhive.example/"},
		.campaigns = {
			{"partner-deals", "deal", "banner-468"},
			{"coupons", "code", "list"},
			{"cashback", "cash", "tile"}
		}
	},
	[CDI_CHANNEL_DISPLAY] = {
		.name = "display",
		.weight_first = 60, .weight_later = 40, .intent = 12,
		.tagged = true, .medium = "display",
		.sources = {"adgrid", "adgrid", "openboard"},
		.referrers = {"", "", ""},
		.campaigns = {
			{"awareness", "prospecting", "300x250"},
			{"retarget-display", "retarget", "728x90"},
			{"awareness", "prospecting", "160x600"}
		}
	},
	[CDI_CHANNEL_DIRECT] = {
		.name = "direct",
		.weight_first = 120, .weight_later = 400, .intent = 38,
		.referrers = {"", "", ""}
	}
};

/* A story while it is written. */
typedef struct Writer
{
	CdiRandom	random;
	CdiStory   *story;
	int64		now;
	int			session_start;	/* index of the session's first call */
	bool		paused;			/* the session has had its long pause */
	bool		app;
	bool		known;
	CdiPageRef	page;
	CdiPageRef	previous;
} Writer;

/* Allocate the arrays of a story that will be written again and again. */
void
cdi_simulate_init_story(CdiStory *story)
{
	memset(story, 0, sizeof(CdiStory));
	story->sessions = palloc(sizeof(CdiSession) * CDI_MAX_SESSIONS);
	story->calls = palloc(sizeof(CdiCall) * CDI_MAX_CALLS);
}

static int
pick_product(Writer *writer)
{
	int			a = cdi_simulate_below(&writer->random, CDI_PRODUCTS);
	int			b = cdi_simulate_below(&writer->random, CDI_PRODUCTS);

	/* the smaller of two: some products are far more popular than others */
	return Min(a, b);
}

static CdiCall *
add_call(Writer *writer, CdiCallKind kind)
{
	CdiStory   *story = writer->story;
	CdiCall    *call = &story->calls[story->ncalls];

	Assert(story->ncalls - writer->session_start < CDI_MAX_SESSION_CALLS);
	call->first = story->ncalls == writer->session_start;
	if (!call->first)
		writer->now += 150 + cdi_simulate_below(&writer->random, 2500);
	call->at_ms = writer->now;
	call->ordinal = story->ncalls;
	call->session = story->nsessions;
	call->kind = kind;
	call->known = writer->known;
	call->product = 0;
	call->quantity = 0;
	call->page = writer->page;
	call->referrer = writer->previous;
	story->ncalls++;
	return call;
}

/*
 * Turn to another page, after some time on the one before.
 */
static void
open_page(Writer *writer, CdiPageKind kind, int product)
{
	bool		first = writer->story->ncalls == writer->session_start;

	if (!first)
	{
		writer->previous = writer->page;
		if (!writer->paused && cdi_simulate_chance(&writer->random, 1))
		{
			/* called away; well inside the usual half hour all the same */
			writer->paused = true;
			writer->now += 10 * CDI_MS_PER_MINUTE +
				cdi_simulate_below(&writer->random, MAX_PAUSE - 11 * CDI_MS_PER_MINUTE);
		}
		else
		{
			int			a = cdi_simulate_below(&writer->random, 150000);
			int			b = cdi_simulate_below(&writer->random, 150000);

			writer->now += 2000 + Min(a, b);
		}
	}
	writer->page.kind = kind;
	writer->page.product = product;
	if (first)
		writer->previous = writer->page;
	add_call(writer, CDI_CALL_PAGE);
}

static void
log_in(Writer *writer)
{
	const CdiProfile *profile = &writer->story->profile;
	bool		first_login = true;

	for (int i = 0; i < writer->story->ncalls; i++)
		if (writer->story->calls[i].known)
			first_login = false;

	open_page(writer, CDI_PAGE_LOGIN, 0);
	writer->known = true;
	if (first_login && profile->wrong_email[0] != '\0')
	{
		add_call(writer, CDI_CALL_IDENTIFY_WRONG);
		writer->now += 20000;
	}
	add_call(writer, CDI_CALL_IDENTIFY);
	if (first_login && profile->aliases && !writer->app)
		add_call(writer, CDI_CALL_ALIAS);
	if (first_login && profile->company >= 0)
		add_call(writer, CDI_CALL_GROUP);
	add_call(writer, CDI_CALL_SIGNED_IN);
}

/*
 * Look at products; put some in the cart; perhaps buy.
 */
static void
shop(Writer *writer, CdiSession *session)
{
	int			intent = cdi_simulate_channels[session->channel].intent;
	int			draw = cdi_simulate_below(&writer->random, 100);
	int			views = draw < 20 ? 0 : draw < 50 ? 1 : draw < 75 ? 2 : draw < 90 ? 3 : 5;

	if (views == 0)
	{
		if (cdi_simulate_chance(&writer->random, 40))
			open_page(writer, CDI_PAGE_CATEGORY, cdi_simulate_below(&writer->random, 5));
		return;
	}
	if (cdi_simulate_chance(&writer->random, 12))
	{
		int			product = pick_product(writer);

		open_page(writer, CDI_PAGE_SEARCH, product);
		add_call(writer, CDI_CALL_PRODUCTS_SEARCHED)->product = product;
	}
	for (int i = 0; i < views; i++)
	{
		int			product = pick_product(writer);

		if (i == 0 && writer->page.kind == CDI_PAGE_PRODUCT)
			product = writer->page.product; /* it was the landing page */
		else
			open_page(writer, CDI_PAGE_PRODUCT, product);
		add_call(writer, CDI_CALL_PRODUCT_VIEWED)->product = product;

		if (session->ncart < CDI_MAX_CART &&
			cdi_simulate_chance(&writer->random, session->ncart > 0 ? 15 : intent / 2))
		{
			CdiCartLine *line = &session->cart[session->ncart++];
			CdiCall    *call;

			writer->now += 4000 + cdi_simulate_below(&writer->random, 40000);
			line->product = product;
			line->quantity = cdi_simulate_chance(&writer->random, 80) ? 1 :
				2 + cdi_simulate_below(&writer->random, 2);
			call = add_call(writer, CDI_CALL_PRODUCT_ADDED);
			call->product = product;
			call->quantity = line->quantity;
		}
	}
	if (session->ncart == 0 || !cdi_simulate_chance(&writer->random, 65))
		return;
	open_page(writer, CDI_PAGE_CART, 0);
	add_call(writer, CDI_CALL_CART_VIEWED);
	if (!cdi_simulate_chance(&writer->random, 70))
		return;
	open_page(writer, CDI_PAGE_CHECKOUT, 0);
	add_call(writer, CDI_CALL_CHECKOUT_STARTED);
	if (!cdi_simulate_chance(&writer->random, 75))
		return;
	open_page(writer, CDI_PAGE_CONFIRMATION, 0);
	add_call(writer, CDI_CALL_ORDER_COMPLETED);
}

static CdiChannel
pick_channel(Writer *writer, bool first)
{
	int			draw = cdi_simulate_below(&writer->random, 1000);

	for (int i = 0; i < CDI_CHANNELS; i++)
	{
		const CdiChannelSpec *spec = &cdi_simulate_channels[i];

		draw -= first ? spec->weight_first : spec->weight_later;
		if (draw < 0)
			return (CdiChannel) i;
	}
	return CDI_CHANNEL_DIRECT;
}

static void
write_session(Writer *writer, int device, int64 started_ms, bool login)
{
	CdiStory   *story = writer->story;
	CdiSession *session = &story->sessions[story->nsessions];
	int			draw = cdi_simulate_below(&writer->random, 100);

	memset(session, 0, sizeof(CdiSession));
	session->started_ms = started_ms;
	session->device = device;
	session->channel = pick_channel(writer, story->nsessions == 0);
	session->variant = cdi_simulate_below(&writer->random, 3);
	session->click = cdi_simulate_next(&writer->random);

	writer->now = started_ms;
	writer->session_start = story->ncalls;
	writer->paused = false;
	writer->app = story->profile.devices[device].kind == CDI_DEVICE_APP;

	if (writer->app)
	{
		/* an app is opened from its icon: nothing says what led to it */
		session->channel = CDI_CHANNEL_DIRECT;
		writer->page.kind = CDI_PAGE_HOME;
		writer->page.product = 0;
		writer->previous = writer->page;
		add_call(writer, CDI_CALL_APPLICATION_OPENED);
		add_call(writer, CDI_CALL_PAGE);
	}
	else if (draw < 45)
		open_page(writer, CDI_PAGE_HOME, 0);
	else if (draw < 65)
		open_page(writer, CDI_PAGE_CATEGORY, cdi_simulate_below(&writer->random, 5));
	else
		open_page(writer, CDI_PAGE_PRODUCT, pick_product(writer));

	if (login)
		log_in(writer);
	shop(writer, session);

	Assert(writer->now - started_ms < MAX_SESSION);
	story->nsessions++;
}

/*
 * Write the story of person number into story, over whatever it held.
 */
void
cdi_simulate_write_story(const CdiSimulationPlan *plan, int32 number,
						 CdiStory *story)
{
	Writer		writer;
	CdiProfile *profile = &story->profile;
	int			nsessions = 1;
	int			device_of[CDI_MAX_SESSIONS];
	int			login_at[CDI_MAX_DEVICES] = {0};
	bool		known[CDI_MAX_DEVICES] = {false};
	int64		start_ms = plan->start_ms;
	int64		span = plan->days * CDI_MS_PER_DAY;
	int64		slot;

	memset(&writer, 0, sizeof(writer));
	writer.story = story;
	writer.random.state = cdi_simulate_key(plan->journey_key ^ JOURNEY_STREAM,
										   (uint64) number, 0);
	cdi_simulate_fill_profile(plan, number, profile);
	story->nsessions = 0;
	story->ncalls = 0;

	/* Who gives an address away has gone when the other comes. */
	if (profile->recycling != CDI_RECYCLING_NONE)
		span /= 2;
	if (profile->recycling == CDI_RECYCLING_TAKER)
		start_ms += span;

	/* at least five slots in a day, so that every device gets a session */
	if (profile->member)
		nsessions = 2 + cdi_simulate_below(&writer.random, 8);
	nsessions = Max(nsessions, profile->ndevices);
	nsessions = Min(nsessions, (int) (span / MIN_SLOT));
	slot = span / nsessions;

	for (int i = 0; i < nsessions; i++)
		device_of[i] = i < profile->ndevices ? i :
			cdi_simulate_chance(&writer.random, 60) ? 0 :
			cdi_simulate_below(&writer.random, profile->ndevices);
	if (profile->anomaly == CDI_ANOMALY_SHARED_DEVICE)
	{
		/* a borrowed device is used once */
		for (int i = profile->ndevices; i < nsessions; i++)
			if (device_of[i] == profile->ndevices - 1)
				device_of[i] = 0;
	}
	for (int i = nsessions - 1; i > 0; i--)
	{
		int			j = cdi_simulate_below(&writer.random, i + 1);
		int			swap = device_of[i];

		device_of[i] = device_of[j];
		device_of[j] = swap;
	}

	/* log in at a device's first session, or at any later one */
	for (int d = 0; d < profile->ndevices; d++)
	{
		int			seen = 0;
		bool		early = cdi_simulate_chance(&writer.random, 60);

		login_at[d] = -1;
		for (int i = 0; i < nsessions; i++)
		{
			if (device_of[i] != d)
				continue;
			if (seen++ == 0 || (!early && cdi_simulate_below(&writer.random, seen) == 0))
				login_at[d] = i;
		}
	}

	for (int i = 0; i < nsessions; i++)
	{
		int			device = device_of[i];
		bool		login = profile->member && login_at[device] == i;
		int64		within = slot - MAX_SESSION - MIN_GAP;

		within = (int64) (cdi_simulate_next(&writer.random) % (uint64) within);
		writer.known = known[device];
		write_session(&writer, device, start_ms + i * slot + within, login);
		known[device] = writer.known;
	}
}

/*
 * When call comes in.  Most calls arrive as they happen; a late one was kept
 * on its device for hours or days; a duplicate is sent again within a day.
 */
void
cdi_simulate_arrival(const CdiSimulationPlan *plan, const CdiStory *story,
					 const CdiCall *call, CdiArrival *arrival)
{
	CdiRandom	random;

	random.state = cdi_simulate_key(plan->journey_key ^ ARRIVAL_STREAM,
									(uint64) story->profile.number,
									(uint64) call->ordinal);
	arrival->late = cdi_simulate_share(cdi_simulate_next(&random)) < plan->late;
	arrival->duplicated = cdi_simulate_share(cdi_simulate_next(&random)) < plan->duplicates;
	arrival->at_ms = call->at_ms;
	if (arrival->late)
		arrival->at_ms += 3 * CDI_MS_PER_HOUR +
			cdi_simulate_below(&random, 3 * CDI_MS_PER_DAY);
	if (arrival->duplicated)
		arrival->again_ms = arrival->at_ms + 1000 +
			cdi_simulate_below(&random, CDI_MS_PER_DAY);
}

/*
 * Write the message id of call as its SDK would form it, and return its
 * length; result takes CDI_MESSAGE_ID_LEN bytes.
 */
int
cdi_simulate_message_id(const CdiSimulationPlan *plan, const CdiStory *story,
						const CdiCall *call, char *result)
{
	CdiRandom	random;
	uint64		high;
	uint64		low;
	int			len = 0;
	int			device = story->sessions[call->session].device;

	random.state = cdi_simulate_key(plan->journey_key ^ MESSAGE_STREAM,
									(uint64) story->profile.number,
									(uint64) call->ordinal);
	high = cdi_simulate_next(&random);
	low = cdi_simulate_next(&random);
	if (story->profile.devices[device].kind != CDI_DEVICE_APP)
	{
		memcpy(result, "ajs-next-", 9);
		len = 9 + pg_ulltoa_n((uint64) call->at_ms, result + 9);
		result[len++] = '-';
	}
	cdi_simulate_format_uuid(high, low, result + len);
	return len + CDI_UUID_LEN;
}

/* What an order of the session's cart is worth, in cents. */
int64
cdi_simulate_revenue(const CdiSession *session, const CdiProduct *catalogue)
{
	int64		cents = 0;

	for (int i = 0; i < session->ncart; i++)
		cents += catalogue[session->cart[i].product].price_cents *
			session->cart[i].quantity;
	return cents;
}
