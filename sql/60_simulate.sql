-- Synthetic shop traffic and its truth.  Every function takes the same
-- arguments: the truth of a run is asked for with the arguments of that run.

CREATE OR REPLACE FUNCTION cdi_simulate(
	persons integer DEFAULT 1000,
	seed bigint DEFAULT 1,
	start_at timestamptz DEFAULT '2026-01-01 00:00:00+00',
	days integer DEFAULT 30,
	anomalies double precision DEFAULT 0,
	duplicates double precision DEFAULT 0.01,
	late double precision DEFAULT 0.01,
	recycled double precision DEFAULT 0)
RETURNS SETOF jsonb
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5 ROWS 36000
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_simulate(integer, bigint, timestamptz, integer, double precision, double precision, double precision, double precision) IS
'Calls of a simulated shop''s visitors, one Segment-shaped jsonb each, about 36 per person; the same arguments give the same calls on every machine.
persons: how many people; person k does the same however many follow. seed: which people; the same seed with another start_at brings the same people back. start_at (to the millisecond) and days: the time that the calls'' timestamps lie in.
anomalies: share of members who log in on an earlier person''s device or type a wrong e-mail address, one that is nobody''s or an earlier person''s; 0 is clean traffic, in which every person is one connected set of identifiers that touches nobody else''s.
duplicates: share of calls sent twice, with the same message id and body, up to a day later. late: share of calls that arrive 3 to 75 hours after their timestamp.
recycled: share of members, 0.4 at most, whose e-mail address was an earlier member''s: that one is seen in the first half of the time only, the later one in the second. Needs 2 days.
None of these shares changes what other people do, and message ids repeat between runs that differ in nothing else.
Order is order of arrival within each 1024 people, and these follow one after the other. Memory is that of 1024 people: SELECT cdi_simulate(...) streams, SELECT ... FROM cdi_simulate(...) keeps the whole result in a temporary file first.
Returns nothing for a NULL argument. Raises invalid_parameter_value.';

CREATE OR REPLACE FUNCTION cdi_simulate_people(
	persons integer DEFAULT 1000,
	seed bigint DEFAULT 1,
	start_at timestamptz DEFAULT '2026-01-01 00:00:00+00',
	days integer DEFAULT 30,
	anomalies double precision DEFAULT 0,
	duplicates double precision DEFAULT 0.01,
	late double precision DEFAULT 0.01,
	recycled double precision DEFAULT 0)
RETURNS TABLE (person integer, identifier_type text, identifier_value text, owned_from timestamptz, owned_until timestamptz)
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5 ROWS 3500
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_simulate_people(integer, bigint, timestamptz, integer, double precision, double precision, double precision, double precision) IS
'Truth of cdi_simulate() with the same arguments: the identifiers of each person (user_id, email, anonymous_id), all of which occur in the calls. A visitor who never logs in has one anonymous_id and nothing else.
With anomalies, a shared device is listed for each person who uses it; a mistyped e-mail address that is nobody''s is its typist''s; one that is somebody''s is listed for that person alone. A recycled address is listed for both of its owners.
owned_from and owned_until (not inclusive) say when an identifier became and ceased to be the person''s; null for those that always or still are. Only recycled addresses have either.';

CREATE OR REPLACE FUNCTION cdi_simulate_conversions(
	persons integer DEFAULT 1000,
	seed bigint DEFAULT 1,
	start_at timestamptz DEFAULT '2026-01-01 00:00:00+00',
	days integer DEFAULT 30,
	anomalies double precision DEFAULT 0,
	duplicates double precision DEFAULT 0.01,
	late double precision DEFAULT 0.01,
	recycled double precision DEFAULT 0)
RETURNS TABLE (person integer, message_id text, converted_at timestamptz, value numeric)
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5 ROWS 700
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_simulate_conversions(integer, bigint, timestamptz, integer, double precision, double precision, double precision, double precision) IS
'Truth of cdi_simulate() with the same arguments: the orders. message_id and converted_at are those of the "Order Completed" call, value is its properties.revenue in euros.';

CREATE OR REPLACE FUNCTION cdi_simulate_touchpoints(
	persons integer DEFAULT 1000,
	seed bigint DEFAULT 1,
	start_at timestamptz DEFAULT '2026-01-01 00:00:00+00',
	days integer DEFAULT 30,
	anomalies double precision DEFAULT 0,
	duplicates double precision DEFAULT 0.01,
	late double precision DEFAULT 0.01,
	recycled double precision DEFAULT 0)
RETURNS TABLE (person integer, started_at timestamptz, channel text, source text, medium text, campaign text)
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5 ROWS 5000
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_simulate_touchpoints(integer, bigint, timestamptz, integer, double precision, double precision, double precision, double precision) IS
'Truth of cdi_simulate() with the same arguments: the sessions, with the timestamp of their first call and the channel that led to them: paid_search, organic_search, paid_social, organic_social, email, referral, affiliate, display or direct.
source, medium and campaign are the utm parameters where the channel has them (paid_search, paid_social, email, affiliate, display); otherwise source and medium name the referrer, and direct has none. A person''s sessions are more than an hour apart on all devices together, pauses within one are shorter than 25 minutes, and only the first call of a session shows its campaign.';

CREATE OR REPLACE FUNCTION cdi_simulate_totals(
	persons integer DEFAULT 1000,
	seed bigint DEFAULT 1,
	start_at timestamptz DEFAULT '2026-01-01 00:00:00+00',
	days integer DEFAULT 30,
	anomalies double precision DEFAULT 0,
	duplicates double precision DEFAULT 0.01,
	late double precision DEFAULT 0.01,
	recycled double precision DEFAULT 0,
	OUT calls bigint,
	OUT distinct_calls bigint,
	OUT duplicate_calls bigint,
	OUT late_calls bigint,
	OUT people bigint,
	OUT anonymous_people bigint,
	OUT conversions bigint,
	OUT revenue numeric,
	OUT touchpoints bigint)
RETURNS record
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 100000
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_simulate_totals(integer, bigint, timestamptz, integer, double precision, double precision, double precision, double precision) IS
'Truth of cdi_simulate() with the same arguments, in one row: calls it returns, distinct ones, duplicates, late ones (without their duplicates), people, people who never log in, orders, their revenue, sessions. Takes a small part of the time that the calls take.';
