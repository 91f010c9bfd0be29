-- Simulated traffic: its shape, its promises, and its truth.
-- Nothing here is compared with an earlier run: what is expected is that one
-- function agrees with another, or that nothing breaks a rule.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS cdi;
RESET client_min_messages;
SET timezone = 'UTC';

-- The run that most of this file looks at.
CREATE TEMP TABLE calls AS
	SELECT n AS arrival, c AS call,
		c->>'messageId' AS message_id,
		(c->>'timestamp')::timestamptz AS at
	FROM cdi_simulate(persons => 300, seed => 7, duplicates => 0.05, late => 0.05) WITH ORDINALITY s(c, n);
CREATE TEMP TABLE people AS
	SELECT * FROM cdi_simulate_people(persons => 300, seed => 7);
ANALYZE calls, people;

-- 1. As many calls as promised, of every type.
SELECT t.calls = count(*) AS calls,
	t.distinct_calls = count(DISTINCT message_id) AS distinct_calls,
	t.duplicate_calls = count(*) - count(DISTINCT message_id) AS duplicates,
	t.people = 300 AS people
FROM calls, cdi_simulate_totals(persons => 300, seed => 7, duplicates => 0.05, late => 0.05) t
GROUP BY t.calls, t.distinct_calls, t.duplicate_calls, t.people;
SELECT DISTINCT call->>'type' AS type FROM calls ORDER BY 1;
SELECT DISTINCT call->>'event' AS event FROM calls WHERE call->>'type' = 'track' ORDER BY 1;
SELECT avg(calls_of) BETWEEN 30 AND 40 AS calls_per_person, avg(bytes) BETWEEN 600 AND 1200 AS bytes_per_call
FROM (SELECT count(*) / 300.0 FROM calls) a(calls_of), (SELECT avg(octet_length(call::text)) FROM calls) b(bytes);

-- 2. A call is well-formed jsonb (parsing its text gives the same value, and
-- every key is found), and shaped as the SDKs shape it.
SELECT count(*) AS malformed FROM calls
WHERE call <> call::text::jsonb
	OR EXISTS (SELECT FROM jsonb_each(call) e WHERE call->e.key IS DISTINCT FROM e.value)
	OR EXISTS (SELECT FROM jsonb_each(call->'context') e WHERE call->'context'->e.key IS DISTINCT FROM e.value)
	OR EXISTS (SELECT FROM jsonb_each(call->'properties') e WHERE call->'properties'->e.key IS DISTINCT FROM e.value);
SELECT count(*) AS misshapen FROM calls
WHERE length(message_id) >= 100
	OR call->>'anonymousId' IS NULL
	OR call ? 'sentAt'
	OR call->>'timestamp' !~ '^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$'
	OR at < '2026-01-01' OR at >= '2026-01-31'
	OR NOT call->'context' ?& '{library,userAgent,ip,locale}'
	OR (call->>'type' IN ('page', 'screen')) <> (call ? 'name')
	OR (call->>'type' = 'track') <> (call ? 'event')
	OR (call->>'type' IN ('identify', 'group')) <> (call ? 'traits')
	OR (call->>'type' = 'group') <> (call ? 'groupId')
	OR (call->>'type' = 'alias') <> (call ? 'previousId')
	OR (call->>'type' IN ('identify', 'group', 'alias') AND NOT call ? 'userId');

-- 3. A duplicate has the body of its original.
SELECT count(*) AS bodies_that_differ FROM (
	SELECT FROM calls GROUP BY message_id HAVING count(DISTINCT call) > 1 OR count(*) > 2) d;

-- 4. The same arguments give the same calls in the same order; another seed
-- gives others.
SELECT count(*) AS differences FROM calls
FULL JOIN cdi_simulate(persons => 300, seed => 7, duplicates => 0.05, late => 0.05) WITH ORDINALITY s(c, n) ON n = arrival
WHERE c IS DISTINCT FROM call;
SELECT count(*) AS shared_between_seeds FROM (
	SELECT FROM (VALUES (7), (8), (-7), (-9223372036854775808)) s(seed),
		cdi_simulate_people(persons => 300, seed => seed)
	GROUP BY identifier_type, identifier_value HAVING count(*) > 1
	UNION ALL SELECT FROM (VALUES (7), (8), (-7), (-9223372036854775808)) s(seed),
		cdi_simulate_conversions(persons => 300, seed => seed)
	GROUP BY message_id HAVING count(*) > 1) d;

-- 5. A person does the same however many follow: fewer people are a part of
-- more people, in the calls and in the truth.
CREATE TEMP TABLE few AS SELECT c FROM cdi_simulate(persons => 120, seed => 7, duplicates => 0.05, late => 0.05) c;
SELECT count(*) AS not_among_more FROM (SELECT c FROM few EXCEPT ALL SELECT call FROM calls) d;
SELECT count(*) AS missing_among_fewer FROM (
	SELECT call FROM calls JOIN people ON identifier_value = call->>'anonymousId'
	WHERE person <= 120 EXCEPT ALL SELECT c FROM few) d;
SELECT count(*) AS truth_that_differs FROM (
	(TABLE people EXCEPT SELECT * FROM cdi_simulate_people(persons => 120, seed => 7))
	EXCEPT SELECT * FROM people WHERE person > 120) d;

-- 6. Shares of duplicate and late calls change how calls arrive, never which
-- there are.
SELECT count(*) AS differences FROM (SELECT DISTINCT call FROM calls) a
FULL JOIN cdi_simulate(persons => 300, seed => 7, duplicates => 0, late => 0) b ON b = call
WHERE b IS NULL OR call IS NULL;
SELECT t.calls = 2 * t.distinct_calls AS every_call_twice, t.late_calls = t.distinct_calls AS every_call_late
FROM cdi_simulate_totals(persons => 300, duplicates => 1, late => 1) t;

-- 7. Calls arrive in the order of time, but for late ones, which come 3 to 75
-- hours later than they should.
CREATE TEMP VIEW behind AS
	SELECT *, max(at) OVER (ORDER BY n) - at AS lag FROM (
		SELECT n, (c->>'timestamp')::timestamptz AS at FROM
		cdi_simulate(persons => 300, seed => 7, duplicates => 0, late => 0.05) WITH ORDINALITY s(c, n)) s;
SELECT count(*) FILTER (WHERE lag > '0') BETWEEN 1 AND t.late_calls AS behind,
	max(lag) BETWEEN '3 hours' AND '75 hours' AS far_behind
FROM behind, cdi_simulate_totals(persons => 300, seed => 7, late => 0.05) t GROUP BY t.late_calls;
SELECT count(*) AS unordered_without_late_calls FROM (
	SELECT c->>'timestamp' < lag(c->>'timestamp') OVER (ORDER BY n) AS before
	FROM cdi_simulate(persons => 300, seed => 7, duplicates => 0, late => 0) WITH ORDINALITY s(c, n)) s
WHERE before;

-- 8. The identifiers in the calls are those of the truth, each one's person's
-- alone; all of a member's meet his user id in some call, and a visitor has
-- one device: so each person is one component and there are 300 of them.
CREATE TEMP VIEW seen AS
	SELECT message_id, 'user_id' AS type, call->>'userId' AS value FROM calls WHERE call ? 'userId'
	UNION ALL SELECT message_id, 'anonymous_id', call->>'anonymousId' FROM calls
	UNION ALL SELECT message_id, 'email', call->'traits'->>'email' FROM calls WHERE call->'traits' ? 'email';
SELECT count(*) AS differences FROM (SELECT DISTINCT type, value FROM seen) s
FULL JOIN people ON type = identifier_type AND value = identifier_value
WHERE value IS NULL OR person IS NULL;
SELECT count(DISTINCT person) AS people, count(*) = count(DISTINCT (identifier_type, identifier_value)) AS owned_by_one FROM people;
SELECT count(*) AS calls_of_two_people FROM (
	SELECT FROM seen JOIN people ON type = identifier_type AND value = identifier_value
	GROUP BY message_id HAVING count(DISTINCT person) > 1) d;
SELECT count(*) AS unconnected FROM people p
JOIN people u ON u.person = p.person AND u.identifier_type = 'user_id'
WHERE NOT EXISTS (SELECT FROM seen a JOIN seen b USING (message_id)
	WHERE a.type = p.identifier_type AND a.value = p.identifier_value
	AND b.type = 'user_id' AND b.value = u.identifier_value);
SELECT t.anonymous_people = count(*) AS anonymous_people, max(devices) AS devices_of_a_visitor
FROM (SELECT person, count(*) AS devices FROM people GROUP BY person
	HAVING bool_and(identifier_type = 'anonymous_id')) v, cdi_simulate_totals(persons => 300, seed => 7) t
GROUP BY t.anonymous_people;
SELECT count(*) AS forgotten_logins FROM (
	SELECT lag(call ? 'userId') OVER (PARTITION BY call->>'anonymousId' ORDER BY at) AS known_before, call
	FROM (SELECT DISTINCT call, at FROM calls) c) k
WHERE known_before AND NOT call ? 'userId';

-- 9. Sessions by the usual rule, thirty minutes without a call, are the
-- sessions of the truth, with much room on both sides of it.
CREATE FUNCTION pg_temp.check_sessions(persons int, seed bigint, start_at timestamptz, days int, recycled float8 DEFAULT 0,
	OUT touchpoints bool, OUT differences bigint, OUT longest_pause bool, OUT shortest_gap bool, OUT last_in_time bool)
LANGUAGE sql SET enable_nestloop = off AS $$
	WITH paced AS (
		SELECT person, at, at - lag(at) OVER (PARTITION BY person ORDER BY at) AS pause
		FROM (SELECT DISTINCT c->>'messageId', c->>'anonymousId' AS device, (c->>'timestamp')::timestamptz AS at
			FROM cdi_simulate(persons, seed, start_at, days, recycled => recycled) c) c
		JOIN cdi_simulate_people(persons, seed, start_at, days, recycled => recycled) ON identifier_type = 'anonymous_id' AND identifier_value = device),
	found AS (SELECT person, at FROM paced WHERE pause IS NULL OR pause > '30 minutes'),
	truth AS (SELECT person, started_at FROM cdi_simulate_touchpoints(persons, seed, start_at, days, recycled => recycled))
	SELECT (SELECT count(*) FROM truth) = (SELECT t.touchpoints FROM cdi_simulate_totals(persons, seed, start_at, days, recycled => recycled) t),
		(SELECT count(*) FROM found f FULL JOIN truth t ON f.person = t.person AND at = started_at WHERE at IS NULL OR started_at IS NULL),
		(SELECT max(pause) < '25 minutes' FROM paced WHERE pause <= '30 minutes'),
		(SELECT min(pause) > '1 hour' FROM paced WHERE pause > '30 minutes'),
		(SELECT max(at) < start_at + days * interval '1 day' AND min(at) >= start_at FROM paced)
$$;
SELECT * FROM pg_temp.check_sessions(300, 7, '2026-01-01', 30);
SELECT * FROM pg_temp.check_sessions(300, 7, '2026-03-28 11:59:59.999999', 1);
SELECT * FROM pg_temp.check_sessions(300, -1, '1999-12-31', 2);
SELECT * FROM pg_temp.check_sessions(300, 3, '1970-01-01', 3660);
SELECT * FROM pg_temp.check_sessions(2000, 4, '2026-01-01', 7);
SELECT * FROM pg_temp.check_sessions(2000, 4, '2026-01-01', 2, 0.4);

-- 10. The channel of a session can be told from its first call alone, and no
-- other call carries a campaign or an outside referrer.
CREATE TEMP TABLE landings AS
	SELECT t.*, call->'context'->'campaign' AS utm,
		call->'context'->'page'->>'referrer' AS referrer,
		call->'context'->'page'->>'search' AS query,
		call->'context'->'page'->>'url' AS url, message_id
	FROM cdi_simulate_touchpoints(persons => 300, seed => 7) t
	JOIN people ON people.person = t.person AND identifier_type = 'anonymous_id'
	JOIN (SELECT DISTINCT call, message_id, at FROM calls) c ON at = started_at AND call->>'anonymousId' = identifier_value;
SELECT count(*) - (SELECT touchpoints FROM cdi_simulate_totals(persons => 300, seed => 7)) AS sessions_without_landing FROM landings;
SELECT count(*) AS channels_that_differ FROM landings
WHERE channel IS DISTINCT FROM CASE
	WHEN utm->>'medium' = 'cpc' AND query ~ '&gclid=' THEN 'paid_search'
	WHEN utm->>'medium' = 'paid_social' AND query ~ '&fbclid=' THEN 'paid_social'
	WHEN utm IS NOT NULL THEN utm->>'medium'
	WHEN referrer ~ '^https://www.google.com/' THEN 'organic_search'
	WHEN referrer ~ '^https://(t.co|www.instagram.com)/' THEN 'organic_social'
	WHEN referrer <> '' THEN 'referral'
	ELSE 'direct' END;
SELECT count(*) AS campaigns_that_differ FROM landings
WHERE (utm IS NOT NULL AND (source, medium, campaign) IS DISTINCT FROM (utm->>'source', utm->>'medium', utm->>'name'))
	OR (utm IS NULL AND campaign IS NOT NULL)
	OR (utm IS NOT NULL) <> (query ~ '^\?utm_source=\w+&utm_medium=\w+&utm_campaign=')
	OR (utm IS NOT NULL AND right(url, length(query)) <> query)
	OR (channel = 'direct') <> (source IS NULL);
SELECT count(*) AS late_campaigns FROM calls
WHERE message_id NOT IN (SELECT message_id FROM landings)
	AND (call->'context' ? 'campaign' OR call->'context'->'page'->>'search' <> ''
		OR call->'context'->'page'->>'referrer' !~ '^https://www\.shop\.example/');
SELECT DISTINCT channel FROM landings ORDER BY 1;

-- 11. Conversions are the completed orders, and an order is worth its products.
CREATE TEMP TABLE orders AS
	SELECT DISTINCT message_id, at, call->>'anonymousId' AS device, call->'properties' AS p
	FROM calls WHERE call->>'event' = 'Order Completed';
SELECT count(*) > 0 AS any, count(*) FILTER (WHERE o.message_id IS NULL OR t.message_id IS NULL
	OR at <> converted_at OR value <> (p->>'revenue')::numeric
	OR t.person <> (SELECT person FROM people WHERE identifier_value = device)) AS differences
FROM orders o FULL JOIN cdi_simulate_conversions(persons => 300, seed => 7) t ON t.message_id = o.message_id;
SELECT count(*) AS wrong_sums FROM orders
WHERE (p->>'revenue')::numeric <> (SELECT sum((i->>'price')::numeric * (i->>'quantity')::int) FROM jsonb_array_elements(p->'products') i)
	OR (p->>'total')::numeric <> (p->>'revenue')::numeric + (p->>'shipping')::numeric
	OR scale((p->>'revenue')::numeric) <> 2 OR p->>'currency' <> 'EUR';
SELECT count(*) = count(DISTINCT p->>'order_id') AS one_order_id_each,
	sum((p->>'revenue')::numeric) = t.revenue AS revenue, count(*) = t.conversions AS conversions
FROM orders, cdi_simulate_totals(persons => 300, seed => 7) t GROUP BY t.revenue, t.conversions;

-- 12. Anomalies: the share is that of members, the others are as before, and
-- the truth says who owns what.
CREATE TEMP TABLE odd AS SELECT DISTINCT c AS call FROM cdi_simulate(persons => 300, seed => 7, anomalies => 0.2) c;
CREATE TEMP TABLE odd_people AS SELECT * FROM cdi_simulate_people(persons => 300, seed => 7, anomalies => 0.2);
SELECT count(*) AS differences FROM (
	SELECT DISTINCT v.type, v.value FROM odd, LATERAL (VALUES
		('user_id', call->>'userId'), ('anonymous_id', call->>'anonymousId'),
		('email', CASE WHEN call->>'type' = 'identify' THEN call->'traits'->>'email' END)) v(type, value)
	WHERE v.value IS NOT NULL) s
FULL JOIN (SELECT DISTINCT identifier_type, identifier_value FROM odd_people) p ON type = identifier_type AND value = identifier_value
WHERE value IS NULL OR identifier_value IS NULL;
SELECT identifier_type, count(*) > 0 AS shared FROM (
	SELECT identifier_type FROM odd_people GROUP BY identifier_type, identifier_value HAVING count(*) > 1) s
GROUP BY 1 ORDER BY 1;
CREATE TEMP VIEW odd_members AS
	SELECT person FROM odd_people GROUP BY person
	HAVING count(*) FILTER (WHERE identifier_type = 'email') > 1
	UNION SELECT person FROM odd_people d WHERE identifier_type = 'anonymous_id'
		AND identifier_value NOT IN (SELECT identifier_value FROM people WHERE people.person = d.person)
	UNION SELECT u.person FROM odd JOIN odd_people u ON u.identifier_value = call->>'userId'
		JOIN odd_people e ON e.identifier_value = call->'traits'->>'email' WHERE e.person <> u.person;
-- a share of 0.2 of some 270 members: within five standard deviations
SELECT abs(odd - 0.2 * members) < 5 * sqrt(members * 0.2 * 0.8) AS share
FROM (SELECT count(*) FROM odd_members) a(odd), (SELECT count(*) FROM people WHERE identifier_type = 'user_id') b(members);
SELECT count(*) AS changed_calls_of_others FROM (
	SELECT DISTINCT call FROM calls JOIN people ON identifier_value = call->>'anonymousId'
	WHERE person NOT IN (SELECT person FROM odd_members)
	EXCEPT SELECT call FROM odd) d;

-- 13. The same seed with another start: the same people, other messages.
CREATE TEMP TABLE february AS SELECT c FROM cdi_simulate(persons => 300, seed => 7, start_at => '2026-02-01', days => 28) c;
SELECT count(*) AS repeated_messages FROM february JOIN calls ON message_id = c->>'messageId';
SELECT count(DISTINCT c->>'userId') = (SELECT count(*) FROM people WHERE identifier_type = 'user_id') AS members_are_back
FROM february WHERE c->>'userId' IN (SELECT identifier_value FROM people WHERE identifier_type = 'user_id');

-- 14. Streaming: in a select list, over several blocks, and stopped half-way.
SELECT count(*) = (SELECT calls FROM cdi_simulate_totals(persons => 2500)) AS streamed
FROM (SELECT cdi_simulate(persons => 2500)) s;
SELECT count(*) AS stopped FROM (SELECT cdi_simulate(persons => 2000000000) LIMIT 10) s;
SELECT count(*) AS nobody FROM cdi_simulate(persons => 0);
SELECT * FROM cdi_simulate_totals(persons => 0);
SELECT count(*) AS unknown FROM cdi_simulate(persons => NULL);

-- 15. Recycled addresses: each had one owner before, who is seen in the first
-- half of the time only, and the later one in the second.
CREATE TEMP TABLE again AS SELECT DISTINCT c AS call, (c->>'timestamp')::timestamptz AS at
	FROM cdi_simulate(persons => 2000, seed => 7, recycled => 0.2) c;
CREATE TEMP TABLE again_people AS SELECT * FROM cdi_simulate_people(persons => 2000, seed => 7, recycled => 0.2);
CREATE TEMP VIEW handed AS
	SELECT a.identifier_value AS email, a.person AS giver, b.person AS taker, a.owned_until = b.owned_from AND a.owned_from IS NULL AND b.owned_until IS NULL AS dated, b.owned_from AS at
	FROM again_people a JOIN again_people b USING (identifier_type, identifier_value)
	WHERE a.person < b.person;
SELECT count(*) = count(DISTINCT email) AS changed_hands_once, bool_and(dated) AS dated, min(at) = max(at) AND min(at) = '2026-01-16' AS half_way FROM handed;
SELECT count(*) - 2 * (SELECT count(*) FROM handed) AS other_dates FROM again_people WHERE owned_from IS NOT NULL OR owned_until IS NOT NULL;
SELECT DISTINCT identifier_type AS shared FROM again_people GROUP BY identifier_type, identifier_value HAVING count(*) > 1;
-- a share of 0.2 of some 1800 members: within five standard deviations
SELECT abs(takers - 0.2 * members) < 5 * sqrt(members * 0.2 * 0.8) AS share
FROM (SELECT count(*) FROM handed) a(takers), (SELECT count(*) FROM again_people WHERE identifier_type = 'user_id') b(members);
CREATE TEMP VIEW again_seen AS
	SELECT p.person, at, v.type, v.value FROM again JOIN again_people p ON p.identifier_value = call->>'anonymousId', LATERAL (VALUES
		('user_id', call->>'userId'), ('anonymous_id', call->>'anonymousId'),
		('email', CASE WHEN call->>'type' = 'identify' THEN call->'traits'->>'email' END)) v(type, value)
	WHERE v.value IS NOT NULL;
SELECT count(*) AS differences FROM (SELECT DISTINCT person, type, value FROM again_seen) s
FULL JOIN again_people p ON p.person = s.person AND type = identifier_type AND value = identifier_value
WHERE value IS NULL OR identifier_value IS NULL;
SELECT (SELECT count(*) FROM again_seen s JOIN handed h ON person = giver WHERE s.at >= h.at) AS givers_after,
	(SELECT count(*) FROM again_seen s JOIN handed h ON person = taker WHERE s.at < h.at) AS takers_before;
SELECT count(*) AS changed_calls_of_others FROM (
	SELECT c FROM cdi_simulate(persons => 2000, seed => 7) c JOIN again_people ON identifier_value = c->>'anonymousId'
	WHERE person NOT IN (SELECT giver FROM handed UNION ALL SELECT taker FROM handed)
	EXCEPT SELECT call FROM again) d;
-- Nobody depends on who follows, not even a giver whose taker does not come.
SELECT count(*) AS not_among_more FROM (
	SELECT cdi_simulate(persons => giver, seed => 7, recycled => 0.2) FROM (SELECT max(giver) FROM handed) h(giver)
	EXCEPT SELECT call FROM again) d;
-- Beside anomalies each identifier still belongs to whom the truth says.
SELECT count(*) AS differences FROM (
	SELECT DISTINCT v.type, v.value FROM cdi_simulate(persons => 2000, seed => 7, anomalies => 0.5, recycled => 0.4) call, LATERAL (VALUES
		('user_id', call->>'userId'), ('anonymous_id', call->>'anonymousId'),
		('email', CASE WHEN call->>'type' = 'identify' THEN call->'traits'->>'email' END)) v(type, value)
	WHERE v.value IS NOT NULL) s
FULL JOIN (SELECT DISTINCT identifier_type, identifier_value FROM cdi_simulate_people(persons => 2000, seed => 7, anomalies => 0.5, recycled => 0.4)) p ON type = identifier_type AND value = identifier_value
WHERE value IS NULL OR identifier_value IS NULL;
SELECT max(owners) AS owners_of_an_address FROM (
	SELECT count(*) FROM cdi_simulate_people(persons => 2000, seed => 7, anomalies => 0.5, recycled => 0.4)
	WHERE identifier_type = 'email' GROUP BY identifier_value) d(owners);

-- 16. What it refuses.
SELECT cdi_simulate(persons => -1);
SELECT cdi_simulate(days => 0);
SELECT cdi_simulate_totals(days => 3661);
SELECT cdi_simulate(late => 1.5);
SELECT cdi_simulate_people(anomalies => 'NaN');
SELECT cdi_simulate_touchpoints(duplicates => -0.1);
SELECT cdi_simulate(start_at => '-infinity');
SELECT cdi_simulate(start_at => '1969-12-31 23:59:59+00');
SELECT cdi_simulate_conversions(start_at => '9999-12-15 00:00:00+00');
SELECT cdi_simulate_totals(recycled => 0.41);
SELECT cdi_simulate_people(recycled => 'NaN');
SELECT cdi_simulate(days => 1, recycled => 0.1);
