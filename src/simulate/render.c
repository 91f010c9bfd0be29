/*
 * render.c
 *		One simulated call, written as the SDK of its device would send it.
 *
 * The call becomes a JsonbValue tree (tree.h), children before parents, and
 * the tree a jsonb.  Text and pairs live in the renderer and are overwritten
 * by the next call.
 */
#include "postgres.h"

#include "datatype/timestamp.h"
#include "simulate/simulate.h"
#include "simulate/tree.h"
#include "utils/datetime.h"

#define SITE			"https://www.shop.example"

struct CdiRenderer
{
	const CdiSimulationPlan *plan;
	const CdiProduct *catalogue;
	JsonbValue	products[CDI_MAX_CART];
	CdiTree		tree;
};

typedef struct BrowserModel
{
	const char *user_agent;
	int			width;
	int			height;
} BrowserModel;

static const BrowserModel desktops[] = {
	{"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36", 1920, 1080},
	{"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 Safari/605.1.15", 1440, 900},
	{"Mozilla/5.0 (X11; Linux x86_64; rv:133.0) Gecko/20100101 Firefox/133.0", 2560, 1440},
	{"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36 Edg/131.0.0.0", 1536, 864}
};

static const BrowserModel phones[] = {
	{"Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 Mobile/15E148 Safari/604.1", 393, 852},
	{"Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Mobile Safari/537.36", 412, 915},
	{"Mozilla/5.0 (Android 14; Mobile; rv:133.0) Gecko/133.0 Firefox/133.0", 360, 800}
};

static const struct
{
	const char *manufacturer;
	const char *model;
	const char *name;
	const char *type;
	const char *os;
	const char *os_version;
	const char *library;
	const char *user_agent;
}			handsets[] = {
	{"Apple", "iPhone15,2", "iPhone", "ios", "iOS", "18.1", "analytics-swift", "Shop/4.12.0 (iPhone; iOS 18.1; Scale/3.00)"},
	{"Apple", "iPhone14,7", "iPhone", "ios", "iOS", "17.6.1", "analytics-swift", "Shop/4.12.0 (iPhone; iOS 17.6.1; Scale/3.00)"},
	{"Google", "Pixel 8", "shiba", "android", "Android", "15", "analytics-kotlin", "Dalvik/2.1.0 (Linux; U; Android 15; Pixel 8 Build/AP3A.241105.007)"},
	{"samsung", "SM-S911B", "dm1q", "android", "Android", "14", "analytics-kotlin", "Dalvik/2.1.0 (Linux; U; Android 14; SM-S911B Build/UP1A.231005.007)"}
};

static const char *const page_titles[] = {
	[CDI_PAGE_HOME] = "Home",
	[CDI_PAGE_CATEGORY] = "Category",
	[CDI_PAGE_PRODUCT] = "Product",
	[CDI_PAGE_SEARCH] = "Search",
	[CDI_PAGE_LOGIN] = "Sign in",
	[CDI_PAGE_CART] = "Cart",
	[CDI_PAGE_CHECKOUT] = "Checkout",
	[CDI_PAGE_CONFIRMATION] = "Order confirmed"
};

static const char *const event_names[] = {
	[CDI_CALL_APPLICATION_OPENED] = "Application Opened",
	[CDI_CALL_SIGNED_IN] = "Signed In",
	[CDI_CALL_PRODUCTS_SEARCHED] = "Products Searched",
	[CDI_CALL_PRODUCT_VIEWED] = "Product Viewed",
	[CDI_CALL_PRODUCT_ADDED] = "Product Added",
	[CDI_CALL_CART_VIEWED] = "Cart Viewed",
	[CDI_CALL_CHECKOUT_STARTED] = "Checkout Started",
	[CDI_CALL_ORDER_COMPLETED] = "Order Completed"
};

static const char *const plans[] = {"free", "basic", "plus"};

/* Unix milliseconds as RFC 3339 in UTC. */
static JsonbValue
time_value(CdiRenderer *renderer, int64 ms)
{
	CdiTree    *tree = &renderer->tree;
	int			year;
	int			month;
	int			day;
	int64		rest = ms % CDI_MS_PER_DAY;

	j2date((int) (ms / CDI_MS_PER_DAY) + UNIX_EPOCH_JDATE, &year, &month, &day);
	begin_text(tree);
	add_number(tree, year, 4);
	add_text(tree, "-");
	add_number(tree, month, 2);
	add_text(tree, "-");
	add_number(tree, day, 2);
	add_text(tree, "T");
	add_number(tree, rest / CDI_MS_PER_HOUR, 2);
	add_text(tree, ":");
	add_number(tree, rest / CDI_MS_PER_MINUTE % 60, 2);
	add_text(tree, ":");
	add_number(tree, rest / 1000 % 60, 2);
	add_text(tree, ".");
	add_number(tree, rest % 1000, 3);
	add_text(tree, "Z");
	return end_text(tree);
}

static JsonbValue
money_value(int64 cents)
{
	return numeric_value(int64_div_fast_to_numeric(cents, 2));
}

static void
add_path(CdiRenderer *renderer, CdiPageRef page)
{
	CdiTree    *tree = &renderer->tree;
	switch ((CdiPageKind) page.kind)
	{
		case CDI_PAGE_HOME:
			add_text(tree, "/");
			break;
		case CDI_PAGE_CATEGORY:
			add_text(tree, "/c/");
			add_text(tree, cdi_simulate_category(page.product));
			break;
		case CDI_PAGE_PRODUCT:
			add_text(tree, "/p/");
			add_text(tree, renderer->catalogue[page.product].slug);
			break;
		case CDI_PAGE_SEARCH:
			add_text(tree, "/search");
			break;
		case CDI_PAGE_LOGIN:
			add_text(tree, "/account/login");
			break;
		case CDI_PAGE_CART:
			add_text(tree, "/cart");
			break;
		case CDI_PAGE_CHECKOUT:
			add_text(tree, "/checkout");
			break;
		case CDI_PAGE_CONFIRMATION:
			add_text(tree, "/checkout/confirmed");
			break;
	}
}

static JsonbValue
site_url(CdiRenderer *renderer, CdiPageRef page)
{
	CdiTree    *tree = &renderer->tree;
	begin_text(tree);
	add_text(tree, SITE);
	add_path(renderer, page);
	return end_text(tree);
}

/* The query string with which a tagged channel sends people to the shop. */
static JsonbValue
landing_query(CdiRenderer *renderer, const CdiSession *session)
{
	CdiTree    *tree = &renderer->tree;
	const CdiChannelSpec *spec = &cdi_simulate_channels[session->channel];
	const CdiCampaign *campaign = &spec->campaigns[session->variant];

	begin_text(tree);
	add_text(tree, "?utm_source=");
	add_text(tree, spec->sources[session->variant]);
	add_text(tree, "&utm_medium=");
	add_text(tree, spec->medium);
	add_text(tree, "&utm_campaign=");
	add_text(tree, campaign->name);
	add_text(tree, "&utm_term=");
	add_text(tree, campaign->term);
	add_text(tree, "&utm_content=");
	add_text(tree, campaign->content);
	if (spec->click_parameter)
	{
		add_text(tree, "&");
		add_text(tree, spec->click_parameter);
		add_text(tree, "=");
		add_text(tree, spec->click_prefix);
		add_hex(tree, session->click);
	}
	return end_text(tree);
}

static JsonbValue
page_object(CdiRenderer *renderer, const CdiStory *story, const CdiCall *call)
{
	CdiTree    *tree = &renderer->tree;
	const CdiSession *session = &story->sessions[call->session];
	const CdiChannelSpec *spec = &cdi_simulate_channels[session->channel];
	JsonbValue	url = site_url(renderer, call->page);
	JsonbValue	path = url;
	JsonbValue	search = text_value("");
	JsonbValue	referrer;

	path.val.string.val += strlen(SITE);
	path.val.string.len -= strlen(SITE);
	if (call->first)
	{
		referrer = text_value(spec->referrers[session->variant]);
		if (spec->tagged)
		{
			/* scratch text is contiguous: the URL is extended in place */
			search = landing_query(renderer, session);
			url.val.string.len += search.val.string.len;
		}
	}
	else
		referrer = site_url(renderer, call->referrer);

	begin_object(tree);
	put(tree, "url", url);
	put(tree, "path", path);
	begin_text(tree);
	if (call->page.kind == CDI_PAGE_PRODUCT)
		add_text(tree, renderer->catalogue[call->page.product].name);
	else if (call->page.kind == CDI_PAGE_CATEGORY)
		add_text(tree, cdi_simulate_category(call->page.product));
	else
		add_text(tree, page_titles[call->page.kind]);
	add_text(tree, " | Shop");
	put(tree, "title", end_text(tree));
	put(tree, "search", search);
	put(tree, "referrer", referrer);
	return end_object(tree);
}

static JsonbValue
campaign_object(CdiRenderer *renderer, const CdiSession *session)
{
	CdiTree    *tree = &renderer->tree;
	const CdiChannelSpec *spec = &cdi_simulate_channels[session->channel];
	const CdiCampaign *campaign = &spec->campaigns[session->variant];

	begin_object(tree);
	put_text(tree, "name", campaign->name);
	put_text(tree, "term", campaign->term);
	put_text(tree, "medium", spec->medium);
	put_text(tree, "source", spec->sources[session->variant]);
	put_text(tree, "content", campaign->content);
	return end_object(tree);
}

static JsonbValue
library_object(CdiRenderer *renderer, const char *name, const char *version)
{
	CdiTree    *tree = &renderer->tree;
	begin_object(tree);
	put_text(tree, "name", name);
	put_text(tree, "version", version);
	return end_object(tree);
}

static JsonbValue
screen_object(CdiRenderer *renderer, int width, int height, int density)
{
	CdiTree    *tree = &renderer->tree;
	begin_object(tree);
	put(tree, "width", integer_value(width));
	put(tree, "height", integer_value(height));
	put(tree, "density", integer_value(density));
	return end_object(tree);
}

static JsonbValue
browser_context(CdiRenderer *renderer, const CdiStory *story,
				const CdiCall *call, const CdiDevice *device,
				const JsonbValue *page)
{
	CdiTree    *tree = &renderer->tree;
	const CdiPlace *place = cdi_simulate_place(&story->profile);
	const CdiSession *session = &story->sessions[call->session];
	bool		phone = device->kind == CDI_DEVICE_PHONE;
	bool		tagged = call->first && cdi_simulate_channels[session->channel].tagged;
	const BrowserModel *model = phone ?
		&phones[device->model % lengthof(phones)] :
		&desktops[device->model % lengthof(desktops)];
	JsonbValue	library = library_object(renderer, "analytics.js", "next-1.84.3");
	JsonbValue	screen = screen_object(renderer, model->width, model->height, phone ? 3 : 1);
	JsonbValue	campaign;

	if (tagged)
		campaign = campaign_object(renderer, session);
	begin_object(tree);
	put_text(tree, "ip", device->ip);
	put(tree, "page", *page);
	put_text(tree, "locale", place->locale);
	put(tree, "screen", screen);
	put(tree, "library", library);
	if (tagged)
		put(tree, "campaign", campaign);
	put_text(tree, "timezone", place->timezone);
	put_text(tree, "userAgent", model->user_agent);
	return end_object(tree);
}

static JsonbValue
app_context(CdiRenderer *renderer, const CdiStory *story,
			const CdiDevice *device)
{
	CdiTree    *tree = &renderer->tree;
	const CdiPlace *place = cdi_simulate_place(&story->profile);
	int			model = device->model % lengthof(handsets);
	JsonbValue	library = library_object(renderer, handsets[model].library, "1.16.3");
	JsonbValue	screen = screen_object(renderer, 1080, 2340, 3);
	JsonbValue	app;
	JsonbValue	hardware;
	JsonbValue	network;
	JsonbValue	os = library_object(renderer, handsets[model].os, handsets[model].os_version);

	begin_object(tree);
	put_text(tree, "name", "Shop");
	put_text(tree, "build", "412");
	put_text(tree, "version", "4.12.0");
	put_text(tree, "namespace", "example.shop.app");
	app = end_object(tree);

	begin_object(tree);
	put_text(tree, "id", device->anonymous_id);
	put_text(tree, "name", handsets[model].name);
	put_text(tree, "type", handsets[model].type);
	put_text(tree, "model", handsets[model].model);
	put_text(tree, "manufacturer", handsets[model].manufacturer);
	hardware = end_object(tree);

	begin_object(tree);
	put(tree, "wifi", boolean_value(device->model < 7));
	put(tree, "cellular", boolean_value(device->model >= 7));
	put(tree, "bluetooth", boolean_value(false));
	network = end_object(tree);

	begin_object(tree);
	put_text(tree, "ip", device->ip);
	put(tree, "os", os);
	put(tree, "app", app);
	put(tree, "device", hardware);
	put_text(tree, "locale", place->locale);
	put(tree, "screen", screen);
	put(tree, "library", library);
	put(tree, "network", network);
	put_text(tree, "timezone", place->timezone);
	put_text(tree, "userAgent", handsets[model].user_agent);
	return end_object(tree);
}

/* The members of a product, into the object that is being filled. */
static void
put_product(CdiRenderer *renderer, const CdiProduct *product, int quantity)
{
	CdiTree    *tree = &renderer->tree;
	put_text(tree, "sku", product->sku);
	put_text(tree, "name", product->name);
	put_text(tree, "brand", product->brand);
	put(tree, "price", numeric_value(product->price));
	put_text(tree, "category", product->category);
	if (quantity > 0)
		put(tree, "quantity", integer_value(quantity));
	put_text(tree, "product_id", product->product_id);
}

static JsonbValue
cart_array(CdiRenderer *renderer, const CdiSession *session)
{
	CdiTree    *tree = &renderer->tree;
	JsonbValue	value;

	for (int i = 0; i < session->ncart; i++)
	{
		begin_object(tree);
		put_product(renderer, &renderer->catalogue[session->cart[i].product],
					session->cart[i].quantity);
		renderer->products[i] = end_object(tree);
	}
	value.type = jbvArray;
	value.val.array.nElems = session->ncart;
	value.val.array.elems = renderer->products;
	value.val.array.rawScalar = false;
	return value;
}

/* A name of something in the session: an order or a cart. */
static JsonbValue
session_name(CdiRenderer *renderer, const CdiSession *session, const char *prefix)
{
	CdiTree    *tree = &renderer->tree;
	begin_text(tree);
	add_text(tree, prefix);
	add_hex(tree, cdi_simulate_mix(session->click ^ (uint64) session->started_ms));
	return end_text(tree);
}

static JsonbValue
event_properties(CdiRenderer *renderer, const CdiStory *story,
				 const CdiCall *call)
{
	CdiTree    *tree = &renderer->tree;
	const CdiSession *session = &story->sessions[call->session];
	const CdiProduct *product = &renderer->catalogue[call->product];
	JsonbValue	cart;
	JsonbValue	order_id;
	JsonbValue	url;
	int64		revenue;

	switch ((CdiCallKind) call->kind)
	{
		case CDI_CALL_APPLICATION_OPENED:
			begin_object(tree);
			put_text(tree, "build", "412");
			put_text(tree, "version", "4.12.0");
			put(tree, "from_background", boolean_value(session->click & 1));
			return end_object(tree);

		case CDI_CALL_SIGNED_IN:
			begin_object(tree);
			put_text(tree, "method", "password");
			return end_object(tree);

		case CDI_CALL_PRODUCTS_SEARCHED:
			begin_object(tree);
			put_text(tree, "query", product->name);
			return end_object(tree);

		case CDI_CALL_PRODUCT_VIEWED:
		case CDI_CALL_PRODUCT_ADDED:
			begin_text(tree);
			add_text(tree, SITE "/p/");
			add_text(tree, product->slug);
			url = end_text(tree);
			order_id = session_name(renderer, session, "cart_");
			begin_object(tree);
			put_product(renderer, product, call->quantity);
			put(tree, "url", url);
			put_text(tree, "currency", "EUR");
			if (call->kind == CDI_CALL_PRODUCT_ADDED)
				put(tree, "cart_id", order_id);
			return end_object(tree);

		case CDI_CALL_CART_VIEWED:
		case CDI_CALL_CHECKOUT_STARTED:
		case CDI_CALL_ORDER_COMPLETED:
			cart = cart_array(renderer, session);
			revenue = cdi_simulate_revenue(session, renderer->catalogue);
			order_id = session_name(renderer, session, "order_");
			begin_object(tree);
			if (call->kind == CDI_CALL_CART_VIEWED)
			{
				put(tree, "cart_id", session_name(renderer, session, "cart_"));
				put(tree, "products", cart);
				return end_object(tree);
			}
			if (call->kind == CDI_CALL_CHECKOUT_STARTED)
				put(tree, "value", money_value(revenue));
			else
			{
				int64		shipping = revenue >= 5000 ? 0 : 490;

				put(tree, "total", money_value(revenue + shipping));
				put(tree, "revenue", money_value(revenue));
				put(tree, "shipping", money_value(shipping));
			}
			put_text(tree, "currency", "EUR");
			put(tree, "order_id", order_id);
			put(tree, "products", cart);
			return end_object(tree);

		default:
			elog(ERROR, "call kind %d has no event properties", call->kind);
	}
	pg_unreachable();
}

static JsonbValue
person_traits(CdiRenderer *renderer, const CdiProfile *profile, bool wrong_email)
{
	CdiTree    *tree = &renderer->tree;
	const CdiPlace *place = cdi_simulate_place(profile);
	JsonbValue	address;
	JsonbValue	created;
	JsonbValue	name;

	begin_object(tree);
	put_text(tree, "city", place->city);
	put_text(tree, "country", place->country);
	address = end_object(tree);

	/* 18262 days from 1970-01-01 to 2020-01-01 */
	created = time_value(renderer, (18262 + profile->created_day) * CDI_MS_PER_DAY +
						 profile->number % 86400 * INT64CONST(1000));
	begin_text(tree);
	add_text(tree, cdi_simulate_first_name(profile));
	add_text(tree, " ");
	add_text(tree, cdi_simulate_last_name(profile));
	name = end_text(tree);

	begin_object(tree);
	put(tree, "name", name);
	put_text(tree, "plan", plans[profile->plan < 6 ? 0 : profile->plan < 9 ? 1 : 2]);
	put_text(tree, "email", wrong_email ? profile->wrong_email : profile->email);
	put(tree, "address", address);
	put_text(tree, "lastName", cdi_simulate_last_name(profile));
	put(tree, "createdAt", created);
	put_text(tree, "firstName", cdi_simulate_first_name(profile));
	return end_object(tree);
}

static JsonbValue
company_traits(CdiRenderer *renderer, const CdiProfile *profile)
{
	CdiTree    *tree = &renderer->tree;
	JsonbValue	name;

	begin_text(tree);
	add_text(tree, "Company ");
	add_number(tree, profile->company + 1, 0);
	name = end_text(tree);

	begin_object(tree);
	put(tree, "name", name);
	put_text(tree, "plan", "business");
	put_text(tree, "industry", "retail");
	put(tree, "employees", integer_value(10 + profile->company * 7 % 900));
	return end_object(tree);
}

CdiRenderer *
cdi_simulate_make_renderer(const CdiSimulationPlan *plan,
						   const CdiProduct *catalogue)
{
	CdiRenderer *renderer = palloc0(sizeof(CdiRenderer));

	renderer->plan = plan;
	renderer->catalogue = catalogue;
	return renderer;
}

/*
 * Write call.  The result, and a few numbers on the way to it, are allocated
 * in the current memory context.
 */
Jsonb *
cdi_simulate_render(CdiRenderer *renderer, const CdiStory *story,
					const CdiCall *call)
{
	CdiTree    *tree = &renderer->tree;
	const CdiProfile *profile = &story->profile;
	const CdiDevice *device = &profile->devices[story->sessions[call->session].device];
	bool		app = device->kind == CDI_DEVICE_APP;
	char		message_id[CDI_MESSAGE_ID_LEN];
	JsonbValue	message;
	JsonbValue	timestamp;
	JsonbValue	page;
	JsonbValue	context;
	JsonbValue	body;			/* properties or traits */
	JsonbValue	empty;
	JsonbValue	root;
	CdiCallKind kind = (CdiCallKind) call->kind;

	clear_tree(tree);
	cdi_simulate_message_id(renderer->plan, story, call, message_id);
	message = copied_text_value(tree, message_id);
	timestamp = time_value(renderer, call->at_ms);
	begin_object(tree);
	empty = end_object(tree);

	if (app)
		context = app_context(renderer, story, device);
	else
	{
		page = page_object(renderer, story, call);
		context = browser_context(renderer, story, call, device, &page);
	}

	switch (kind)
	{
		case CDI_CALL_PAGE:
			body = app ? empty : page;
			break;
		case CDI_CALL_IDENTIFY:
		case CDI_CALL_IDENTIFY_WRONG:
			body = person_traits(renderer, profile, kind == CDI_CALL_IDENTIFY_WRONG);
			break;
		case CDI_CALL_GROUP:
			body = company_traits(renderer, profile);
			break;
		case CDI_CALL_ALIAS:
			body = empty;
			break;
		default:
			body = event_properties(renderer, story, call);
			break;
	}

	begin_object(tree);
	switch (kind)
	{
		case CDI_CALL_PAGE:
			put_text(tree, "name", page_titles[call->page.kind]);
			put_text(tree, "type", app ? "screen" : "page");
			put(tree, "properties", body);
			break;
		case CDI_CALL_IDENTIFY:
		case CDI_CALL_IDENTIFY_WRONG:
			put_text(tree, "type", "identify");
			put(tree, "traits", body);
			break;
		case CDI_CALL_GROUP:
			put_text(tree, "type", "group");
			put(tree, "traits", body);
			break;
		case CDI_CALL_ALIAS:
			put_text(tree, "type", "alias");
			put_text(tree, "previousId", device->anonymous_id);
			break;
		default:
			put_text(tree, "type", "track");
			put_text(tree, "event", event_names[kind]);
			put(tree, "properties", body);
			break;
	}
	if (kind == CDI_CALL_GROUP)
	{
		begin_text(tree);
		add_text(tree, "company_");
		add_number(tree, profile->company + 1, 0);
		put(tree, "groupId", end_text(tree));
	}
	if (call->known)
		put_text(tree, "userId", profile->user_id);
	put(tree, "context", context);
	put(tree, "messageId", message);
	put(tree, "timestamp", timestamp);
	put_text(tree, "anonymousId", device->anonymous_id);
	put(tree, "integrations", empty);
	root = end_object(tree);
	return JsonbValueToJsonb(&root);
}
