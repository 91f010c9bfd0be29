-- Members that version 0.2.0 added.

ALTER TABLE cdi.sources
    ADD COLUMN rate_limit double precision CHECK (rate_limit BETWEEN 0.001 AND 1000000000),
    ADD COLUMN rate_burst integer CHECK (rate_burst >= 1),
    ADD COLUMN max_body integer CHECK (max_body >= 1),
    ADD COLUMN allowed_origins text,
    ADD COLUMN keep_original boolean NOT NULL DEFAULT false,
    ADD COLUMN client_address text NOT NULL DEFAULT 'auto' CHECK (client_address IN ('auto', 'always', 'never')),
    ADD COLUMN person_traits jsonb CHECK (jsonb_typeof(person_traits) = 'array' AND jsonb_array_length(person_traits) <= 100),
    ADD COLUMN cookieless text NOT NULL DEFAULT 'off'
        CONSTRAINT sources_cookieless_check CHECK (cookieless IN ('off', 'missing', 'always') AND (cookieless = 'off' OR NOT keep_original));
COMMENT ON COLUMN cdi.sources.rate_limit IS 'Events per second that the collectors of the database together take from the source; null: any number. Set by cdi_alter_source(), like the columns below.';
COMMENT ON COLUMN cdi.sources.rate_burst IS 'Events that may come at once; null: those of one second.';
COMMENT ON COLUMN cdi.sources.max_body IS 'Largest request body in kB, beside cdi.collector_max_body; null: that alone.';
COMMENT ON COLUMN cdi.sources.allowed_origins IS 'Origins of web pages that may send, such as https://shop.example or https://*.shop.example; null: all that cdi.collector_allowed_origins allows.';
COMMENT ON COLUMN cdi.sources.keep_original IS 'Whether every request is stored as it came, in cdi.original_requests.';
COMMENT ON COLUMN cdi.sources.client_address IS 'Whether the address that an event came from is stored: auto, as the sender''s protocol does; always; never.';
COMMENT ON COLUMN cdi.sources.person_traits IS 'Array of the names of traits that every event of the source gets of its person, in context.person; null: none.';
COMMENT ON COLUMN cdi.sources.cookieless IS 'Whether events get an id of the day instead of one from the device: off; missing, those that have no id; always, in the place of any anonymous id. With either no address is stored.';

CREATE TABLE cdi.conversions (
    name text PRIMARY KEY,
    event text NOT NULL,
    value_property text,
    lookback interval NOT NULL DEFAULT '30 days' CHECK (lookback > interval '0'),
    touch_lookbacks jsonb CHECK (jsonb_typeof(touch_lookbacks) = 'object'),
    value_expression text CHECK (value_expression IS NULL OR value_property IS NULL),
    value_role name,
    currency text CHECK (currency ~ '^[A-Z]{3}$'),
    currency_property text,
    reporting_currency text CHECK (reporting_currency ~ '^[A-Z]{3}$'),
    unique_property text,
    unique_scope text CHECK (unique_scope IN ('person', 'all')),
    unique_within interval CHECK (unique_within > interval '0'),
    created_at timestamptz NOT NULL DEFAULT now(),
    CHECK ((value_expression IS NULL) = (value_role IS NULL)),
    CONSTRAINT conversions_one_currency_check CHECK (currency_property IS NULL OR reporting_currency IS NOT NULL),
    CHECK (unique_scope IS NOT NULL OR (unique_property IS NULL AND unique_within IS NULL)),
    CHECK (unique_scope IS DISTINCT FROM 'all' OR unique_property IS NOT NULL)
);
COMMENT ON TABLE cdi.conversions IS 'Events that count as conversions, what their value is, which of them are the same one, and how far back a touchpoint may lie.';
COMMENT ON COLUMN cdi.conversions.touch_lookbacks IS 'Windows of touch types that have their own, such as {"impression": "1 day"}; others have lookback.';
COMMENT ON COLUMN cdi.conversions.value_expression IS 'SQL expression over the columns of cdi.events that gives the value, in place of value_property.';
COMMENT ON COLUMN cdi.conversions.value_role IS 'Role that value_expression runs as: who declared it.';
COMMENT ON COLUMN cdi.conversions.currency IS 'ISO 4217 code of values whose event does not name one.';
COMMENT ON COLUMN cdi.conversions.currency_property IS 'Property that names the currency of the value.';
COMMENT ON COLUMN cdi.conversions.reporting_currency IS 'Currency that values are converted into, by cdi.exchange_rates, so that they have a sum; null: all are in currency.';
COMMENT ON COLUMN cdi.conversions.unique_property IS 'Property, such as order_id: of events with the same value in it the first counts.';
COMMENT ON COLUMN cdi.conversions.unique_scope IS 'Among whose events: person or all; null: every event counts.';
COMMENT ON COLUMN cdi.conversions.unique_within IS 'An event counts again that lies further than this behind the one that counted last; null: none does.';
SELECT pg_extension_config_dump('cdi.conversions', '');

-- No foreign key between configuration tables: a parallel restore brings their
-- rows in any order, and would lose those that come too early.
ALTER TABLE cdi.source_grants DROP CONSTRAINT source_grants_source_id_fkey;

CREATE TABLE cdi.destination_specs (
    name text NOT NULL,
    version text NOT NULL,
    spec jsonb NOT NULL,
    builtin boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (name, version)
);
COMMENT ON TABLE cdi.destination_specs IS 'What cdi knows about a kind of destination: a JSON description that C interprets. Built-in rows are not changed; add a version instead.';
SELECT pg_extension_config_dump('cdi.destination_specs', 'WHERE NOT builtin');

CREATE TABLE cdi.destinations (
    destination_id integer GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE CHECK (name <> ''),
    spec_name text NOT NULL,
    spec_version text NOT NULL,
    settings jsonb NOT NULL DEFAULT '{}',
    enabled boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE cdi.destinations IS 'Places that rows are pushed to. Secrets in settings are references (secret:..., file:..., env:...), never values.';
SELECT pg_extension_config_dump('cdi.destinations', '');
SELECT pg_extension_config_dump('cdi.destinations_destination_id_seq', '');

CREATE TABLE cdi.syncs (
    sync_id integer GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE CHECK (name <> ''),
    destination_id integer NOT NULL,
    kind text NOT NULL DEFAULT 'rows' CHECK (kind IN ('rows', 'events')),
    action text,
    model text,
    primary_key text,
    rules jsonb,
    run_as name NOT NULL,
    search_path text NOT NULL,
    mode text NOT NULL DEFAULT 'mirror' CHECK (mode IN ('mirror', 'upsert', 'insert', 'update', 'append', 'delete', 'full')),
    mapping jsonb,
    nulls jsonb NOT NULL DEFAULT '{}',
    change_column text,
    change_value text,
    order_key jsonb,
    schedule_every interval CHECK (schedule_every > interval '0'),
    schedule_after integer,
    schedule_on_change boolean NOT NULL DEFAULT false,
    scheduled_at timestamptz,
    schedule_seen bigint,
    enabled boolean NOT NULL DEFAULT true,
    paused_reason text,
    paused_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    hash_key uuid NOT NULL DEFAULT gen_random_uuid(),
    CHECK (kind = 'events' OR (action IS NOT NULL AND model IS NOT NULL AND primary_key IS NOT NULL)),
    CHECK ((kind = 'events') = (rules IS NOT NULL))
);
COMMENT ON COLUMN cdi.syncs.kind IS 'rows: of a model, as they change. events: as they come (cdi_create_event_stream).';
COMMENT ON COLUMN cdi.syncs.action IS 'Action of the destination; null for a stream of events that each go to the first action whose condition holds.';
COMMENT ON COLUMN cdi.syncs.rules IS 'Which events go: types, events, sources, consent, sample, when, order.';
COMMENT ON COLUMN cdi.syncs.hash_key IS 'Key of the row hashes of its runs.';
COMMENT ON COLUMN cdi.syncs.mapping IS 'What the destination''s action gets of a row, in the specification language; null: the row itself.';
COMMENT ON COLUMN cdi.syncs.nulls IS 'Per member "send" or "omit": what becomes of nulls; "*" for all that are not named.';
COMMENT ON COLUMN cdi.syncs.change_column IS 'Column of the model that grows with every change: only rows from change_value on are looked at, and none counts as removed.';
COMMENT ON COLUMN cdi.syncs.change_value IS 'Highest value of the change column that a run has seen.';
COMMENT ON COLUMN cdi.syncs.order_key IS 'Of rows for which this expression has the same value one is sent after the other; null: as the destination''s action says.';
COMMENT ON COLUMN cdi.syncs.schedule_every IS 'Runs that long after the start of its last scheduled run.';
COMMENT ON COLUMN cdi.syncs.schedule_after IS 'Runs when a run of that sync has been delivered.';
COMMENT ON COLUMN cdi.syncs.schedule_on_change IS 'Runs when the watermark has passed events, at most once a second.';
COMMENT ON COLUMN cdi.syncs.scheduled_at IS 'Start of the last scheduled run.';
COMMENT ON COLUMN cdi.syncs.schedule_seen IS 'Run of the other sync, or watermark, that the last scheduled run followed.';
COMMENT ON COLUMN cdi.syncs.paused_reason IS 'Why the sync does not run; null while it does.';
COMMENT ON TABLE cdi.syncs IS 'Which rows go to which destination: a model query, its primary key and the destination''s action. The model runs as the role that declared the sync, with its search_path of then. Rows are changed by functions only: who could write here could run SQL as any role.';
SELECT pg_extension_config_dump('cdi.syncs', '');
SELECT pg_extension_config_dump('cdi.syncs_sync_id_seq', '');

CREATE TABLE cdi.source_keys (
    key_hash bytea PRIMARY KEY,
    source_id integer NOT NULL,
    hint text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE cdi.source_keys IS 'Further write keys of sources: those that SDKs in the field already send (app ids, API keys, measurement ids). Only the SHA-256 is stored, with the first characters as a hint.';
SELECT pg_extension_config_dump('cdi.source_keys', '');

-- Kinds of identifier are rows like any other configuration: cdi_init() adds
-- those that come with cdi where they are missing, and dumps carry all of them,
-- changed or not.
DELETE FROM cdi.identifier_types WHERE builtin;
ALTER TABLE cdi.identifier_types
    DROP CONSTRAINT identifier_types_priority_key,
    ALTER COLUMN blocked SET DEFAULT '{-1,"null",(null),nil,none,nan,undefined,unknown,anonymous,guest,$posthog_cookieless,true,false,"[object object]"}',
    ADD COLUMN type_id smallint GENERATED BY DEFAULT AS IDENTITY UNIQUE CHECK (type_id BETWEEN 1 AND 255),
    ADD COLUMN graph text NOT NULL DEFAULT 'person' CHECK (graph IN ('person', 'account', 'household')),
    ADD COLUMN paths text[] NOT NULL DEFAULT '{}' CHECK (array_position(paths, NULL) IS NULL),
    ADD COLUMN normaliser text NOT NULL DEFAULT 'trim' CHECK (normaliser <> ''),
    ADD COLUMN normaliser_role name,
    ADD COLUMN blocked_patterns text[] NOT NULL DEFAULT '{}' CHECK (array_position(blocked_patterns, NULL) IS NULL),
    ADD COLUMN max_per_person integer CHECK (max_per_person BETWEEN 1 AND 1000),
    ADD COLUMN limit_window interval CHECK (limit_window > interval '0');
-- Those of version 0.1.0, where it was there.
UPDATE cdi.identifier_types t SET paths = v.paths, normaliser = v.normaliser, max_per_person = v.max, limit_window = v.span
FROM (VALUES ('user_id', '{userId}'::text[], 'trim', 1, NULL::interval),
             ('email', '{traits.email,context.traits.email}', 'email', 5, '1 year'),
             ('anonymous_id', '{anonymousId}', 'trim', 5, '7 days')) AS v (name, paths, normaliser, max, span)
WHERE t.name = v.name;
SELECT pg_extension_config_dump('cdi.identifier_types', '');
SELECT pg_extension_config_dump('cdi.identifier_types_type_id_seq', '');
COMMENT ON TABLE cdi.identifier_types IS 'Kinds of identifier in order of priority (1 is the highest, equals by name): where a call has them, how their values are normalised, which values never identify anyone, and how many a person may have. An event''s subject is its first identifier of graph person in this order.';
COMMENT ON COLUMN cdi.identifier_types.name IS 'Name, as in context.externalIds[].type.';
COMMENT ON COLUMN cdi.identifier_types.priority IS '1 is the highest. Where a limit forbids a union, the identifier of lower priority is set aside.';
COMMENT ON COLUMN cdi.identifier_types.blocked IS 'Values that never identify anyone, whatever their case, before or after they are normalised.';
COMMENT ON COLUMN cdi.identifier_types.builtin IS 'Whether cdi_init() made the row.';
COMMENT ON COLUMN cdi.identifier_types.type_id IS 'Number of the type in cdi.identity_map.';
COMMENT ON COLUMN cdi.identifier_types.graph IS 'What it identifies: a person, an account (from group calls) or a household.';
COMMENT ON COLUMN cdi.identifier_types.paths IS 'Where a call has it, the first that has a value counts: userId, traits.email, context.device.id, ... A+B is the values of both with a colon between; ?PATH=VALUE&... behind it is a condition. Besides, all types are looked for in context.externalIds.';
COMMENT ON COLUMN cdi.identifier_types.normaliser IS 'trim, lower, email, phone, phone:NN (NN: country code of numbers without one), or function:SCHEMA.NAME, a function from text to text.';
COMMENT ON COLUMN cdi.identifier_types.normaliser_role IS 'Role that a function normaliser runs as: who named the function.';
COMMENT ON COLUMN cdi.identifier_types.blocked_patterns IS 'Regular expressions; values that match one, before or after they are normalised, never identify anyone.';
COMMENT ON COLUMN cdi.identifier_types.max_per_person IS 'How many a person (account, household) may have; null: any number. A union that would exceed it is refused and logged in cdi.identity_refusals.';
COMMENT ON COLUMN cdi.identifier_types.limit_window IS 'Only identifiers named within this time before the link count; null: all of them.';

CREATE TABLE cdi.secrets (
    name text PRIMARY KEY,
    key_id text NOT NULL,
    nonce bytea NOT NULL,
    ciphertext bytea NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE cdi.secrets IS 'Secrets, encrypted with AES-256-GCM under the key in cdi.secret_key_file. Entered with COPY cdi.secret_entry FROM STDIN, referred to as secret:NAME.';
SELECT pg_extension_config_dump('cdi.secrets', '');

CREATE VIEW cdi.secret_entry AS SELECT NULL::text AS entry WHERE false;
COMMENT ON VIEW cdi.secret_entry IS 'Where secrets are entered: COPY cdi.secret_entry FROM STDIN, one line NAME=VALUE each. Nothing can be read here.';

CREATE TABLE cdi.webhooks (
    source_id integer PRIMARY KEY,
    scheme text NOT NULL CHECK (scheme IN ('stripe', 'shopify', 'github', 'standard', 'hmac')),
    secrets text[] NOT NULL CHECK (cardinality(secrets) > 0),
    settings jsonb NOT NULL DEFAULT '{}',
    mapping jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE cdi.webhooks IS 'Sources that signed webhooks come in for, at /hook/SOURCE: how they are signed, where the secrets are, and what of a payload becomes which part of an event.';
SELECT pg_extension_config_dump('cdi.webhooks', '');

CREATE TABLE cdi.trait_policies (
    trait text PRIMARY KEY CHECK (trait <> ''),
    policy text NOT NULL CHECK (policy IN ('latest', 'first', 'max', 'min', 'union', 'source_priority')),
    sources integer[],
    created_at timestamptz NOT NULL DEFAULT now(),
    CHECK ((policy = 'source_priority') = (sources IS NOT NULL))
);
COMMENT ON TABLE cdi.trait_policies IS 'Which value of a trait is the person''s, where it is not simply the latest. Change it by cdi_set_trait_policy() and cdi_drop_trait_policy(), which apply the change to what is there.';
COMMENT ON COLUMN cdi.trait_policies.sources IS 'Of source_priority: ids of sources, the one that is believed first in front. Those that are missing come last, as one.';
SELECT pg_extension_config_dump('cdi.trait_policies', '');

CREATE TABLE cdi.computed_traits (
    trait_id integer GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE CHECK (octet_length(name) BETWEEN 1 AND 128),
    aggregate text NOT NULL CHECK (aggregate IN ('count', 'sum', 'min', 'max', 'first', 'last', 'most_frequent')),
    type text NOT NULL CHECK (type IN ('track', 'identify', 'page', 'screen', 'group', 'alias')),
    event text CHECK (event <> ''),
    property text[] CHECK (cardinality(property) BETWEEN 1 AND 10 AND array_position(property, NULL) IS NULL),
    filter jsonb CHECK (jsonb_typeof(filter) = 'object'),
    created_at timestamptz NOT NULL DEFAULT now(),
    CHECK (aggregate = 'count' OR property IS NOT NULL)
);
COMMENT ON TABLE cdi.computed_traits IS 'Traits that are computed from a person''s events as they come. A row is never changed: drop the trait and create it anew.';
COMMENT ON COLUMN cdi.computed_traits.type IS 'Type of the calls that count.';
COMMENT ON COLUMN cdi.computed_traits.event IS 'Their event (of page and screen: name); null: any.';
COMMENT ON COLUMN cdi.computed_traits.property IS 'Path into the properties of the value that is counted, as for the operator #>.';
COMMENT ON COLUMN cdi.computed_traits.filter IS 'What the properties of an event must contain (@>) to count.';
SELECT pg_extension_config_dump('cdi.computed_traits', '');
SELECT pg_extension_config_dump('cdi.computed_traits_trait_id_seq', '');

-- Channels.  cdi_init() adds what comes with cdi where it is missing, and dumps
-- carry all of it.
CREATE TABLE cdi.channels (
    channel text PRIMARY KEY CHECK (channel ~ '^[a-z0-9][a-z0-9_]{0,62}$' AND channel <> 'unattributed'),
    title text NOT NULL CHECK (title <> ''),
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE cdi.channels IS 'Marketing channels that rules and touch types may name. cdi_create_channel() adds one.';
COMMENT ON COLUMN cdi.channels.title IS 'Name in reports: that of Google Analytics, where the channel is there.';
SELECT pg_extension_config_dump('cdi.channels', '');

CREATE TABLE cdi.channel_rules (
    channel_group text NOT NULL CHECK (channel_group <> ''),
    version integer NOT NULL CHECK (version >= 1),
    rule integer NOT NULL CHECK (rule >= 1),
    channel text NOT NULL,    -- no foreign key: a parallel restore may bring the tables in any order
    condition jsonb NOT NULL CHECK (jsonb_typeof(condition) = 'object'),
    note text,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (channel_group, version, rule)
);
COMMENT ON TABLE cdi.channel_rules IS 'Rules that give an event its channel, per group and version, in the order in which they are tried: the first whose condition holds counts. A version is never changed; the highest of a group is the current one. Made by cdi_set_channel_rules().';
COMMENT ON COLUMN cdi.channel_rules.condition IS 'What an event must have: fields with tests, and all, any, not. An empty object holds always.';
COMMENT ON COLUMN cdi.channel_rules.note IS 'Where the rule is from.';
SELECT pg_extension_config_dump('cdi.channel_rules', '');

CREATE TABLE cdi.channel_sites (
    site text PRIMARY KEY CHECK (site ~ '^[^ A-Z/:]{1,253}$'),
    kind text NOT NULL CHECK (kind ~ '^[a-z][a-z0-9_]{0,62}$'),
    any_tld boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE cdi.channel_sites IS 'What kind of site a source or referrer is: source_site and referrer_site of channel rules. Kinds that come with cdi are search, social, shopping, video and ai (assistants); other takes a site out of all. Set by cdi_set_channel_site().';
COMMENT ON COLUMN cdi.channel_sites.site IS 'A domain, which covers its subdomains (the longest counts), or the name under which campaigns are tagged.';
COMMENT ON COLUMN cdi.channel_sites.any_tld IS 'Of a name: whether it is a domain under any top-level domain, too.';
SELECT pg_extension_config_dump('cdi.channel_sites', '');

CREATE TYPE cdi.path_credit AS (
    channel text,
    conversions double precision,
    conversions_low double precision,
    conversions_high double precision,
    value double precision,
    value_low double precision,
    value_high double precision,
    effect double precision
);
COMMENT ON TYPE cdi.path_credit IS 'What a path model credits a channel with (docs/markov.md): conversions and value with the bounds of their interval where one was asked for, and the model''s own figure for the channel.';

CREATE TYPE cdi.ordered_credit AS (
    channel text,
    "position" integer,
    conversions double precision,
    conversions_low double precision,
    conversions_high double precision,
    value double precision,
    value_low double precision,
    value_high double precision
);
COMMENT ON TYPE cdi.ordered_credit IS 'What cdi_shapley_ordered() credits a channel with at a position, with the bounds of their interval where one was asked for (docs/shapley.md).';

CREATE TYPE cdi.hazard_credit AS (
    channel text,
    conversions double precision,
    conversions_low double precision,
    conversions_high double precision,
    value double precision,
    value_low double precision,
    value_high double precision,
    effect double precision,
    lag interval
);
COMMENT ON TYPE cdi.hazard_credit IS 'What cdi_hazard() credits a channel with (docs/shapley.md): as cdi.path_credit, and the mean time from a touch to the conversions that it leads to.';

CREATE TYPE cdi.funnel_path AS (
    level integer,
    steps integer[],
    reached_at timestamptz[],
    excluded_at timestamptz,
    hold text
);
COMMENT ON TYPE cdi.funnel_path IS 'A way through a funnel, from cdi_funnel() and cdi_funnel_paths().';
COMMENT ON COLUMN cdi.funnel_path.level IS 'How many steps were reached.';
COMMENT ON COLUMN cdi.funnel_path.steps IS 'Their numbers from 1 in the order in which they were reached; 1, 2, 3, ... but in any_order.';
COMMENT ON COLUMN cdi.funnel_path.reached_at IS 'When. A step whose event came before that of the step before it, which some dialects let pass, has the time of that one.';
COMMENT ON COLUMN cdi.funnel_path.excluded_at IS 'When the event happened that excluded the path from going on; null: none did.';
COMMENT ON COLUMN cdi.funnel_path.hold IS 'Value of the property that is held constant; null: none is.';

CREATE TABLE cdi.virtual_events (
    version_id integer GENERATED BY DEFAULT AS IDENTITY UNIQUE,
    name text NOT NULL CHECK (octet_length(name) BETWEEN 1 AND 200),
    version integer NOT NULL CHECK (version > 0),
    predicate text NOT NULL,
    expression text NOT NULL,
    indexed boolean NOT NULL DEFAULT false,
    description text,
    created_by name NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (name, version)
);
COMMENT ON TABLE cdi.virtual_events IS 'Virtual events: named predicates over the columns of cdi.events, which hold for all of history. One row per version; the highest is the current one. Written by cdi_create_virtual_event(), cdi_alter_virtual_event() and cdi_drop_virtual_event().';
COMMENT ON COLUMN cdi.virtual_events.predicate IS 'As it was written.';
COMMENT ON COLUMN cdi.virtual_events.expression IS 'As it was understood, and is evaluated: names resolved, literals as constants, times in UTC.';
COMMENT ON COLUMN cdi.virtual_events.indexed IS 'Whether the version, while it is the current one, has a partial index on every partition of cdi.events.';
COMMENT ON COLUMN cdi.virtual_events.created_by IS 'Role that made this version.';
SELECT pg_extension_config_dump('cdi.virtual_events', '');
SELECT pg_extension_config_dump('cdi.virtual_events_version_id_seq', '');

CREATE TABLE cdi.session_settings (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    gap interval NOT NULL DEFAULT '30 minutes',
    midnight text,
    cut_events text[]
);
COMMENT ON TABLE cdi.session_settings IS 'What ends a session in the views. One row, set by cdi_set_sessions().';
COMMENT ON COLUMN cdi.session_settings.gap IS 'A longer pause ends a session.';
COMMENT ON COLUMN cdi.session_settings.midnight IS 'Time zone whose midnight ends a session; null: none.';
COMMENT ON COLUMN cdi.session_settings.cut_events IS 'Names of events, pages and screens that begin a session by themselves; null: none.';
SELECT pg_extension_config_dump('cdi.session_settings', '');

CREATE TABLE cdi.touch_types (
    name text PRIMARY KEY CHECK (name <> ''),
    event text NOT NULL UNIQUE CHECK (event <> ''),
    kind text NOT NULL CHECK (kind IN ('click', 'impression', 'offline')),
    channel text,
    properties jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(properties) = 'object'),
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE cdi.touch_types IS 'Tracked events that are touchpoints beside sessions: an advertisement seen, a call, a visit to a store. Made by cdi_create_touch_type().';
COMMENT ON COLUMN cdi.touch_types.kind IS 'click, impression or offline: cdi.touchpoints.touch_type.';
COMMENT ON COLUMN cdi.touch_types.channel IS 'Channel of all of them; null: that of the property, else by the channel rules.';
COMMENT ON COLUMN cdi.touch_types.properties IS 'Which property has the channel, campaign_source, campaign_medium, campaign_name, campaign_term or campaign_content.';
SELECT pg_extension_config_dump('cdi.touch_types', '');

CREATE TYPE cdi.reach_combination AS (channels text[], people bigint, touches bigint);
COMMENT ON TYPE cdi.reach_combination IS 'People who were reached through exactly these channels, and their touches: an element of the result of cdi_reach().';

-- Rows of the reports of retention, stickiness and lifecycle
CREATE TYPE cdi.retention_count AS (
    cohort date, people bigint, period_from integer, period_to integer,
    eligible bigint, retained bigint, retention double precision);
COMMENT ON TYPE cdi.retention_count IS 'A row of cdi_retention(): of the people of a cohort (null: of all cohorts), those whose periods period_from to period_to have ended (eligible), those of them who came back (retained), and the ratio.';
CREATE TYPE cdi.stickiness_count AS (
    day date, window_days integer, active_days integer, people bigint, complete boolean);
COMMENT ON TYPE cdi.stickiness_count IS 'A row of cdi_stickiness_distribution(): people who were active on exactly active_days of the window_days that end with day.';
CREATE TYPE cdi.lifecycle_count AS (
    period date, active bigint, new bigint, retained bigint, resurrected bigint, dormant bigint, complete boolean);
COMMENT ON TYPE cdi.lifecycle_count IS 'A row of cdi_lifecycle(): people active in the period that begins on that day, by what they did before, and those who were active in the period before only (dormant).';

CREATE TYPE cdi.path_transition AS (
    from_state text,
    to_state text,
    count double precision,
    chance double precision
);
COMMENT ON TYPE cdi.path_transition IS 'A transition of a Markov chain over paths (docs/markov.md): how often walks went from one state to the other, and the chance to do so.';

CREATE TYPE cdi.markov_fit AS (
    "order" integer,
    states integer,
    parameters double precision,
    log_likelihood double precision,
    aic double precision,
    bic double precision,
    auc double precision,
    left_out double precision
);
COMMENT ON TYPE cdi.markov_fit IS 'How well a Markov chain of an order foretells the paths that it is made from (docs/markov.md).';

