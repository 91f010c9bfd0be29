/*
 * simulate.h
 *		Deterministic synthetic shop traffic whose truth is known.
 *
 * A story is everything one person does: the profile (population.c) and the
 * sessions and calls (journey.c).  It is a pure function of the arguments and
 * the person's number, so any part of the traffic, and any part of the truth,
 * can be made again without the rest.  render.c writes one call of a story as
 * an SDK would send it; simulate.c puts stories in order of arrival and holds
 * the SQL functions.
 */
#ifndef CDI_SIMULATE_H
#define CDI_SIMULATE_H

#include "utils/jsonb.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#define CDI_UUID_LEN			36
#define CDI_MESSAGE_ID_LEN		64
#define CDI_MAX_OWN_DEVICES		3
#define CDI_MAX_DEVICES			(CDI_MAX_OWN_DEVICES + 1)	/* one borrowed */
#define CDI_MAX_SESSIONS		10
#define CDI_MAX_SESSION_CALLS	32
#define CDI_MAX_CALLS			(CDI_MAX_SESSIONS * CDI_MAX_SESSION_CALLS)
#define CDI_MAX_CART			3
#define CDI_PRODUCTS			240

#define CDI_MS_PER_MINUTE		INT64CONST(60000)
#define CDI_MS_PER_HOUR			INT64CONST(3600000)
#define CDI_MS_PER_DAY			INT64CONST(86400000)

/* The arguments of cdi_simulate(), checked, and the keys made from them. */
typedef struct CdiSimulationPlan
{
	int32		persons;
	int64		seed;
	int64		start_ms;		/* Unix time, whole milliseconds */
	int32		days;
	double		anomalies;
	double		duplicates;
	double		late;
	double		recycled;
	uint64		identity_key;	/* of seed: who people are */
	uint64		journey_key;	/* of seed, start and days: what they do */
} CdiSimulationPlan;

/* splitmix64: eight bytes of state, the same numbers on every machine. */
typedef struct CdiRandom
{
	uint64		state;
} CdiRandom;

typedef enum CdiDeviceKind
{
	CDI_DEVICE_DESKTOP,
	CDI_DEVICE_PHONE,
	CDI_DEVICE_APP
} CdiDeviceKind;

typedef struct CdiDevice
{
	CdiDeviceKind kind;
	int			model;
	char		anonymous_id[CDI_UUID_LEN + 1];
	char		ip[16];
} CdiDevice;

typedef enum CdiAnomaly
{
	CDI_ANOMALY_NONE,
	CDI_ANOMALY_SHARED_DEVICE,	/* logs in on another person's device */
	CDI_ANOMALY_MISTYPED_EMAIL, /* types an address that is nobody's */
	CDI_ANOMALY_WRONG_EMAIL		/* types an address that is somebody's */
} CdiAnomaly;

/* An e-mail address of two people, one after the other */
typedef enum CdiRecycling
{
	CDI_RECYCLING_NONE,
	CDI_RECYCLING_GIVER,		/* has it in the first half of the time */
	CDI_RECYCLING_TAKER			/* in the second */
} CdiRecycling;

/* The largest share of members that can be takers; see population.c. */
#define CDI_MAX_RECYCLED		0.4

typedef struct CdiProfile
{
	int32		number;			/* 1 .. persons */
	bool		member;			/* false: an anonymous visitor */
	int			first_name;
	int			last_name;
	int			place;
	int			plan;
	int			company;		/* -1: none */
	bool		aliases;		/* sends an alias call at the first login */
	int			created_day;	/* days since 2020-01-01 */
	int			ndevices;
	CdiDevice	devices[CDI_MAX_DEVICES];
	char		user_id[24];
	char		email[96];
	CdiRecycling recycling;
	CdiAnomaly	anomaly;
	char		wrong_email[96];
} CdiProfile;

typedef enum CdiChannel
{
	CDI_CHANNEL_PAID_SEARCH,
	CDI_CHANNEL_ORGANIC_SEARCH,
	CDI_CHANNEL_PAID_SOCIAL,
	CDI_CHANNEL_ORGANIC_SOCIAL,
	CDI_CHANNEL_EMAIL,
	CDI_CHANNEL_REFERRAL,
	CDI_CHANNEL_AFFILIATE,
	CDI_CHANNEL_DISPLAY,
	CDI_CHANNEL_DIRECT
} CdiChannel;

#define CDI_CHANNELS (CDI_CHANNEL_DIRECT + 1)

typedef struct CdiCartLine
{
	int16		product;
	int16		quantity;
} CdiCartLine;

typedef struct CdiSession
{
	int64		started_ms;
	CdiChannel	channel;
	int16		variant;		/* which campaign or referrer of the channel */
	int16		device;
	int16		ncart;
	CdiCartLine cart[CDI_MAX_CART];
	uint64		click;			/* what a click id is made of */
} CdiSession;

typedef enum CdiPageKind
{
	CDI_PAGE_HOME,
	CDI_PAGE_CATEGORY,
	CDI_PAGE_PRODUCT,
	CDI_PAGE_SEARCH,
	CDI_PAGE_LOGIN,
	CDI_PAGE_CART,
	CDI_PAGE_CHECKOUT,
	CDI_PAGE_CONFIRMATION
} CdiPageKind;

typedef enum CdiCallKind
{
	CDI_CALL_PAGE,				/* a screen call on an app */
	CDI_CALL_IDENTIFY,
	CDI_CALL_IDENTIFY_WRONG,	/* with the mistyped address */
	CDI_CALL_ALIAS,
	CDI_CALL_GROUP,
	CDI_CALL_APPLICATION_OPENED,
	CDI_CALL_SIGNED_IN,
	CDI_CALL_PRODUCTS_SEARCHED,
	CDI_CALL_PRODUCT_VIEWED,
	CDI_CALL_PRODUCT_ADDED,
	CDI_CALL_CART_VIEWED,
	CDI_CALL_CHECKOUT_STARTED,
	CDI_CALL_ORDER_COMPLETED
} CdiCallKind;

typedef struct CdiPageRef
{
	int16		kind;
	int16		product;		/* or category, where the page has one */
} CdiPageRef;

typedef struct CdiCall
{
	int64		at_ms;
	int16		ordinal;		/* within the story: part of the message id */
	int16		session;
	int8		kind;
	bool		first;			/* of its session: carries the campaign */
	bool		known;			/* sent after login on this device */
	int16		product;
	int16		quantity;
	CdiPageRef	page;
	CdiPageRef	referrer;
} CdiCall;

typedef struct CdiStory
{
	CdiProfile	profile;
	int			nsessions;
	int			ncalls;
	CdiSession *sessions;
	CdiCall    *calls;
} CdiStory;

/* How a call comes in: when, and whether a second time. */
typedef struct CdiArrival
{
	bool		late;
	bool		duplicated;
	int64		at_ms;
	int64		again_ms;		/* when duplicated */
} CdiArrival;

typedef struct CdiProduct
{
	char		sku[16];
	char		slug[48];
	char		name[48];
	char		product_id[16];
	const char *brand;
	const char *category;
	int			category_number;
	int64		price_cents;
	Numeric		price;
} CdiProduct;

typedef struct CdiPlace
{
	const char *city;
	const char *country;
	const char *locale;
	const char *timezone;
} CdiPlace;

typedef struct CdiCampaign
{
	const char *name;
	const char *term;
	const char *content;
} CdiCampaign;

/* What a channel looks like from the shop's side. */
typedef struct CdiChannelSpec
{
	const char *name;
	int			weight_first;	/* per mille of first sessions */
	int			weight_later;	/* per mille of the others */
	int			intent;			/* per cent that put a viewed product in the cart */
	bool		tagged;			/* has utm parameters */
	const char *medium;
	const char *click_parameter;	/* NULL: none */
	const char *click_prefix;
	const char *sources[3];		/* by variant */
	const char *referrers[3];	/* by variant; "" is none */
	CdiCampaign campaigns[3];	/* by variant, where tagged */
} CdiChannelSpec;

extern const CdiChannelSpec cdi_simulate_channels[CDI_CHANNELS];

/* Scratch memory for one call being written; see render.c. */
typedef struct CdiRenderer CdiRenderer;

/* population.c */
extern uint64 cdi_simulate_mix(uint64 value);
extern uint64 cdi_simulate_key(uint64 key, uint64 a, uint64 b);
extern uint64 cdi_simulate_next(CdiRandom *random);
extern int	cdi_simulate_below(CdiRandom *random, int limit);
extern bool cdi_simulate_chance(CdiRandom *random, int percent);
extern double cdi_simulate_share(uint64 bits);
extern void cdi_simulate_format_uuid(uint64 high, uint64 low, char *result);
extern void cdi_simulate_fill_profile(const CdiSimulationPlan *plan,
									  int32 number, CdiProfile *profile);
extern CdiProduct *cdi_simulate_make_catalogue(void);
extern const char *cdi_simulate_first_name(const CdiProfile *profile);
extern const char *cdi_simulate_last_name(const CdiProfile *profile);
extern const CdiPlace *cdi_simulate_place(const CdiProfile *profile);
extern const char *cdi_simulate_category(int number);

/* journey.c */
extern void cdi_simulate_init_story(CdiStory *story);
extern void cdi_simulate_write_story(const CdiSimulationPlan *plan,
									 int32 number, CdiStory *story);
extern void cdi_simulate_arrival(const CdiSimulationPlan *plan,
								 const CdiStory *story, const CdiCall *call,
								 CdiArrival *arrival);
extern int	cdi_simulate_message_id(const CdiSimulationPlan *plan,
									const CdiStory *story, const CdiCall *call,
									char *result);
extern int64 cdi_simulate_revenue(const CdiSession *session,
								  const CdiProduct *catalogue);

/* render.c */
extern CdiRenderer *cdi_simulate_make_renderer(const CdiSimulationPlan *plan,
											   const CdiProduct *catalogue);
extern Jsonb *cdi_simulate_render(CdiRenderer *renderer,
								  const CdiStory *story, const CdiCall *call);

#endif							/* CDI_SIMULATE_H */
