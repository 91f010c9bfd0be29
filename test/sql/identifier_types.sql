-- Kinds of identifier: where they are found, how they are normalised, what is
-- set aside and why.
SET client_min_messages = warning;
SELECT cdi_resolve() >= 0 AS resolved;
SELECT name, priority, normaliser, max_per_person, limit_window FROM cdi.identifier_types WHERE builtin ORDER BY graph, priority, name;

CREATE FUNCTION pg_temp.sent(call jsonb, OUT identifiers text, OUT refused text)
LANGUAGE plpgsql AS $$
DECLARE
    id text := 'it-' || md5(random()::text);
BEGIN
    PERFORM cdi_ingest(call || jsonb_build_object('messageId', id));
    SELECT e.event_id INTO STRICT sent.identifiers FROM cdi.events e WHERE e.message_id = id;
    SELECT string_agg(format('%s %s: %s%s', r.type, r.value, r.reason, ' (' || r.detail || ')'), '; ' ORDER BY r.type, r.value, r.reason)
    INTO refused FROM cdi.identity_refusals r WHERE r.event_id = sent.identifiers::uuid;
    SELECT string_agg(t.type || '=' || t.value, ' ' ORDER BY t.n) INTO sent.identifiers
    FROM cdi.identity_links l, unnest(l.types, l."values") WITH ORDINALITY AS t (type, value, n)
    WHERE l.event_id = sent.identifiers::uuid AND l.member IS NULL;
END $$;
CREATE FUNCTION pg_temp.found(call jsonb) RETURNS TABLE (identifiers text, refused text)
LANGUAGE sql AS $$SELECT s.identifiers, s.refused FROM pg_temp.sent('{"type": "identify", "userId": "it-u"}'::jsonb || call) s$$;

-- Where a call has them, in the order of priority
SELECT * FROM pg_temp.found('{"anonymousId": "it-a", "traits": {"email": " It@X.example ", "phone": "+1 (415) 555-2671"}}');
SELECT * FROM pg_temp.found('{"context": {"traits": {"email": "it@x.example", "phone": 14155552671, "crossDomainId": "xid"}}}');
SELECT * FROM pg_temp.found('{"traits": {"email": ""}, "context": {"traits": {"email": "second@x.example"}}}') AS first_with_a_value;
SELECT * FROM pg_temp.found('{"traits": {"phone": " "}, "context": {"traits": {"phone": null}}}') AS none;
-- Conditions: the device's type; an advertising id only where tracking is allowed
SELECT * FROM pg_temp.found('{"context": {"device": {"id": "D1", "type": "android", "advertisingId": "AD-1", "adTrackingEnabled": true, "token": "T1"}}}');
SELECT * FROM pg_temp.found('{"context": {"device": {"id": "D2", "type": "iOS", "advertisingId": "AD-2", "adTrackingEnabled": true, "token": "T2"}}}');
SELECT * FROM pg_temp.found('{"context": {"device": {"id": "D3", "type": "ios", "advertisingId": "AD-3", "adTrackingEnabled": false}}}');
SELECT * FROM pg_temp.found('{"context": {"device": {"id": "D4", "type": "ios", "advertisingId": "AD-4"}}}') AS not_said;
SELECT * FROM pg_temp.found('{"context": {"device": {"id": "D5"}}}') AS of_no_type;
SELECT * FROM pg_temp.found('{"context": {"integrations": {"Google Analytics": {"clientId": "1033501218.1368477899"}}}}');
SELECT * FROM pg_temp.found('{"integrations": {"Google Analytics": {"clientId": "1.2"}, "All": true}}');
-- context.externalIds
SELECT * FROM pg_temp.found('{"context": {"externalIds": [
    {"id": "ext@X.example", "type": "email", "collection": "users", "encoding": "none"}, {"id": 77, "type": "ga_client_id"}, {"id": "it-u", "type": "user_id"}]}}');
SELECT * FROM pg_temp.found('{"context": {"externalIds": [
    {"id": "1", "type": "shoe_size", "collection": "users", "encoding": "none"}, {"id": "x@x.example", "type": "email", "collection": "accounts"},
    {"id": "y@x.example", "type": "email", "encoding": "sha256"}, {"id": {}, "type": "email"}, {"type": "email"}, 5, {"id": null, "type": "email"}]}}');
SELECT * FROM pg_temp.found('{"context": {"externalIds": "it"}}');
-- An alias: the previous id may have been either.
SELECT * FROM pg_temp.sent('{"type": "alias", "userId": "it-new", "previousId": "it-previous"}');

-- What identifies nobody
SELECT * FROM pg_temp.found('{"anonymousId": "Undefined", "traits": {"email": "NULL", "phone": "0000000"}}');
SELECT * FROM pg_temp.found('{"userId": "(null)", "anonymousId": "00000000-0000-0000-0000-000000000000"}');
SELECT * FROM pg_temp.found('{"userId": "\u00a0\u200b \u3000", "anonymousId": "it-blank"}') AS blank;
SELECT * FROM pg_temp.found('{"traits": {"email": "no address", "phone": {"home": 1}}}');
SELECT * FROM pg_temp.found('{"traits": {"email": true, "phone": ["+14155552671"]}}');
SELECT * FROM pg_temp.found(jsonb_build_object('anonymousId', repeat('ü', 300), 'traits', jsonb_build_object('email', repeat('x', 1000000) || '@x.example')));
SELECT count(pg_temp.sent(jsonb_build_object('type', 'track', 'event', 'Seen', 'userId', repeat('é', 500000)))) AS stored;
SELECT type, octet_length(value) AS bytes, reason FROM cdi.identity_refusals WHERE value LIKE 'éé%';
SELECT octet_length(string_agg(r::text, '')) < 100000 AS small FROM cdi.identity_refusals r;
-- 512 bytes is the limit.
SELECT cdi_person('user_id', repeat('x', 512)) IS NOT NULL AS longest, cdi_person('user_id', repeat('x', 513)) AS longer, cdi_person('user_id', '  ' || repeat('x', 512)) IS NOT NULL AS trimmed;
-- More than 32 on one event: the rest is set aside, by name up to the 32nd element.
SELECT length(identifiers) - length(replace(identifiers, '=', '')) AS linked, refused
FROM pg_temp.found(jsonb_build_object('anonymousId', 'it-many', 'context', jsonb_build_object('externalIds',
    (SELECT jsonb_agg(jsonb_build_object('id', 'ga' || i, 'type', 'ga_client_id')) FROM generate_series(1, 40) i))));

SELECT identifier = cdi_identifier(type, value) AS key FROM cdi.identity_refusals WHERE value = 'it-many';

-- What is the same on many events of a batch is one row, that of the first.
SELECT cdi_ingest((SELECT jsonb_agg(jsonb_build_object('type', 'track', 'event', 'Opened', 'anonymousId', 'it-' || i, 'messageId', 'it-batch-' || i,
    'context', '{"device": {"type": "ios", "adTrackingEnabled": true, "advertisingId": "00000000-0000-0000-0000-000000000000"}}'::jsonb)) FROM generate_series(1, 1000) i));
SELECT r.type, r.value, r.reason, r.occurrences, e.message_id, r.position IS NULL AS no_link, r.identifier
FROM cdi.identity_refusals r JOIN cdi.events e USING (event_id) WHERE e.message_id LIKE 'it-batch-%';
-- Of events that are not stored nothing is logged: duplicates, failed ones, those rolled back.
CREATE TEMP TABLE before AS SELECT count(*) AS rows, sum(occurrences) AS occurrences FROM cdi.identity_refusals;
SELECT cdi_ingest('[{"type": "track", "event": "Opened", "messageId": "it-batch-1", "userId": "null", "anonymousId": "it-1"},
                    {"type": "track", "messageId": "it-failed", "userId": "null", "anonymousId": "it-1"}]');
BEGIN;
SELECT cdi_track('null', 'Opened', anonymous_id => 'it-1') IS NOT NULL AS stored;
ROLLBACK;
SELECT count(*) = (SELECT rows FROM before) AND sum(occurrences) = (SELECT occurrences FROM before) AS nothing_logged FROM cdi.identity_refusals;

-- Phone numbers.  Expected values are libphonenumber's; test/integration/phone compares thousands.
SELECT cdi_set_identifier_type('it_phone', '{"normaliser": "phone:49"}'), cdi_set_identifier_type('it_phone_it', '{"normaliser": "phone:39"}'),
       cdi_set_identifier_type('it_phone_us', '{"normaliser": "phone:1"}');
CREATE FUNCTION pg_temp.same(type text, value text, e164 text) RETURNS boolean
LANGUAGE sql AS $$SELECT cdi_identifier(type, value) = cdi_identifier(type, e164)$$;
SELECT pg_temp.same('phone', v, '+493012345678') AS same, v AS written FROM (VALUES
    ('+49 30 12345678'), ('0049 30/123 456-78'), ('(+49) (0)30 12345678'), ('+49.30.12345678'), ('+４９３０１２３４５６７８'), (E'\u202A+49\u00A030\u201012345678\u202C'), ('+49030 12345678')) v (v);
SELECT pg_temp.same('it_phone', v, '+493012345678') AS same, v AS written FROM (VALUES ('030 12345678'), ('(030) 123456-78'), ('30 12345678'), ('+49 30 12345678'), ('004930 12345678')) v (v);
SELECT pg_temp.same('it_phone', '0043 1 58858', '+43158858') AS abroad, pg_temp.same('it_phone_it', '06 698 12345', '+390669812345') AS keeps_its_zero,
       pg_temp.same('it_phone_us', '(415) 555-2671', '+14155552671') AS us, pg_temp.same('it_phone_us', '1 415 555 2671', '+14155552671') AS trunk,
       pg_temp.same('it_phone_us', '011 49 30 12345678', '+493012345678') AS leads_out;
SELECT v AS malformed, cdi_person('phone', v) FROM (VALUES ('030 12345678'), ('4930123'), ('+49 30'), ('+49 30 1234567890123'), ('1-800-FLOWERS'), ('+1 415 555 2671 ext. 5'),
    ('+1 415 555 2671;ext=5'), ('++49 30 123456'), ('49+30123456'), ('+999 12345678'), ('+1 144 2079460'), ('0011 45 12345678'), ('+'), ('*31#'), ('+49 30 123456, +49 30 123457')) v (v);
SELECT cdi_person('it_phone', '110') AS too_short, cdi_person('it_phone_us', '0049 30 12345678') AS leads_nowhere;
SELECT cdi_set_identifier_type('it_phone', '{"normaliser": "phone:999"}');

-- SQL functions
CREATE ROLE cdi_test_normaliser;
CREATE SCHEMA it_norm;
GRANT USAGE, CREATE ON SCHEMA it_norm TO cdi_test_normaliser;
SELECT cdi_grant_admin('cdi_test_normaliser');
CREATE TABLE it_norm.secret AS SELECT 'secret'::text AS word;
SET ROLE cdi_test_normaliser;
CREATE TABLE it_norm.seen (value text);
CREATE FUNCTION it_norm.act(statement text) RETURNS text LANGUAGE plpgsql VOLATILE AS 'BEGIN EXECUTE statement; RETURN current_user; END';
CREATE FUNCTION it_norm.code(value text) RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF value = 'raise' THEN RAISE EXCEPTION 'no code: %', value;
    ELSIF value = 'long' THEN RETURN repeat('x', 1000000);
    ELSIF value = 'nobody' THEN RETURN NULL;
    ELSIF value = 'blank' THEN RETURN ' ';
    ELSIF value = 'becomes null' THEN RETURN 'NULL';
    ELSIF value = 'sleep' THEN PERFORM pg_sleep(60);
    ELSIF value = 'write' THEN RETURN it_norm.act('INSERT INTO it_norm.seen VALUES (1)');
    ELSIF value = 'read' THEN RETURN (SELECT word FROM it_norm.secret);
    ELSIF value = 'who' THEN RETURN current_user;
    ELSIF value = 'path' THEN RETURN current_setting('search_path');
    ELSIF value = 'become' THEN RETURN it_norm.act('RESET ROLE');
    ELSIF value = 'unlock' THEN RETURN it_norm.act('SET transaction_read_only = off');
    END IF;
    RETURN upper(regexp_replace(value, '\W', '', 'g'));
END $$;
SELECT cdi_set_identifier_type('it_code', '{"paths": ["traits.code"], "normaliser": "function:it_norm.code", "blocked_patterns": ["^T[0-9]*$"]}');
RESET ROLE;
SELECT normaliser, normaliser_role FROM cdi.identifier_types WHERE name = 'it_code';
SELECT cdi_person('it_code', 'a-1') = cdi_person('it_code', 'A1') AS same, cdi_person('it_code', 't-123') AS matches_a_pattern, cdi_person('it_code', 'nobody') AS nobody;
\set VERBOSITY terse
SELECT cdi_person('it_code', 'raise');
\set VERBOSITY default
-- Neighbours in a batch do not suffer.
SET cdi.identity_normaliser_timeout = '1s';
SELECT cdi_ingest((SELECT jsonb_agg(jsonb_build_object('type', 'identify', 'userId', 'it-f-' || v, 'messageId', 'it-code-' || v, 'traits', jsonb_build_object('code', v)) ORDER BY n)
    FROM unnest('{a-1,raise,b-2,long,nobody,blank,becomes null,sleep,c-3,write,read,who,path,become,unlock,undefined,t-7,"",d-4}'::text[]) WITH ORDINALITY AS t (v, n)));
RESET cdi.identity_normaliser_timeout;
SELECT l."values" FROM cdi.identity_links l JOIN cdi.events e USING (event_id) WHERE e.message_id LIKE 'it-code-%' AND l.types = '{user_id,it_code}' ORDER BY l.position;
SELECT r.value, r.reason, r.detail FROM cdi.identity_refusals r JOIN cdi.events e USING (event_id) WHERE e.message_id LIKE 'it-code-%' ORDER BY r.position;
SELECT count(*) AS written FROM it_norm.seen;
-- What runs as a role is named by its members only; it must be a function from text to text that changes nothing.
CREATE FUNCTION it_norm.volatile(text) RETURNS text LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION it_norm.number(text) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT 1';
CREATE FUNCTION it_norm.closed(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT $1';
REVOKE ALL ON FUNCTION it_norm.closed(text) FROM PUBLIC;
SET ROLE cdi_test_normaliser;
\set VERBOSITY terse
UPDATE cdi.identifier_types SET normaliser_role = 'postgres' WHERE name = 'it_code';
INSERT INTO cdi.identifier_types (name, priority, normaliser, normaliser_role) VALUES ('it_evil', 9, 'function:it_norm.code', 'postgres');
SELECT cdi_set_identifier_type('it_code', '{"normaliser": "function:it_norm.volatile"}');
SELECT cdi_set_identifier_type('it_code', '{"normaliser": "function:it_norm.number"}');
SELECT cdi_set_identifier_type('it_code', '{"normaliser": "function:it_norm.closed"}');
SELECT cdi_set_identifier_type('it_code', '{"normaliser": "function:code"}');
SELECT cdi_set_identifier_type('it_code', '{"normaliser": "function:a.b.c"}');
RESET ROLE;
-- A change of something else leaves the role as it is; who names another function names himself.
SELECT cdi_set_identifier_type('it_code', '{"priority": 8}');
SELECT priority, normaliser_role FROM cdi.identifier_types WHERE name = 'it_code';
SET ROLE cdi_test_normaliser;
UPDATE cdi.identifier_types SET normaliser = 'function:it_norm.closed' WHERE name = 'it_code';
RESET ROLE;
UPDATE cdi.identifier_types SET normaliser = 'trim' WHERE name = 'it_code';
SELECT normaliser, normaliser_role FROM cdi.identifier_types WHERE name = 'it_code';
-- A role or function that is no more identifies nobody, and stores the event.
UPDATE cdi.identifier_types SET normaliser = 'function:it_norm.gone' WHERE name = 'it_code';
SELECT * FROM pg_temp.found('{"traits": {"code": "x"}}');
UPDATE cdi.identifier_types SET normaliser = 'function:it_norm.code', normaliser_role = 'cdi_nobody' WHERE name = 'it_code';
SELECT * FROM pg_temp.found('{"traits": {"code": "x"}}');
SELECT cdi_person('it_code', 'x');
\set VERBOSITY default

-- Settings: named members only, a null is the default, and nothing that could not be used
\set VERBOSITY terse
SELECT cdi_set_identifier_type('it_code', '{"normaliser": null, "paths": ["context.code", "properties.a.b?type.x=1"], "blocked": ["N/A"], "max_per_person": "any", "limit_window": "ever"}');
SELECT cdi_set_identifier_type('it_code', '{"normaliser": null, "paths": ["context.code", "properties.a.b"], "blocked": ["N/A"], "max_per_person": "any", "limit_window": "ever"}');
SELECT graph, paths, normaliser, blocked, max_per_person, limit_window FROM cdi.identifier_types WHERE name = 'it_code';
SELECT cdi_set_identifier_type('it_code', '{"max_per_person": null, "limit_window": null, "priority": null}');
SELECT priority, paths, max_per_person, limit_window FROM cdi.identifier_types WHERE name = 'it_code';
SELECT * FROM pg_temp.found('{"context": {"code": "n/a"}, "properties": {"a": {"b": "x"}}}');
SELECT * FROM pg_temp.found('{"properties": {"a": {"b": 17.50}}}');
SELECT cdi_set_identifier_type('it_code', '{"colour": 1}');
SELECT cdi_set_identifier_type('it_code', '[]');
SELECT cdi_set_identifier_type('');
SELECT cdi_set_identifier_type(repeat('x', 64));
SELECT cdi_set_identifier_type('it_code', jsonb_build_object(k, v)) FROM (VALUES ('priority', '0'::jsonb)) x (k, v);
SELECT cdi_set_identifier_type('it_code', '{"priority": 1.5}');
SELECT cdi_set_identifier_type('it_code', '{"graph": "company"}');
SELECT cdi_set_identifier_type('it_code', '{"graph": "account"}');
SELECT cdi_set_identifier_type('it_code', '{"paths": "userId"}');
SELECT cdi_set_identifier_type('it_code', '{"paths": ["userId.x"]}');
SELECT cdi_set_identifier_type('it_code', '{"paths": ["traits"]}');
SELECT cdi_set_identifier_type('it_code', '{"paths": ["traits..x"]}');
SELECT cdi_set_identifier_type('it_code', '{"paths": ["messageId"]}');
SELECT cdi_set_identifier_type('it_code', '{"paths": ["traits.x?y"]}');
SELECT cdi_set_identifier_type('it_code', '{"normaliser": "soundex"}');
SELECT cdi_set_identifier_type('it_code', '{"blocked_patterns": ["("]}');
SELECT cdi_set_identifier_type('it_code', '{"max_per_person": 0}');
SELECT cdi_set_identifier_type('it_code', '{"limit_window": "soon"}');
SELECT cdi_set_identifier_type('it_code', '{"limit_window": "-1 day"}');
-- The same for who writes the table.
UPDATE cdi.identifier_types SET blocked_patterns = '{a,"["}' WHERE name = 'it_code';
UPDATE cdi.identifier_types SET paths = '{""}' WHERE name = 'it_code';
UPDATE cdi.identifier_types SET normaliser = 'upper' WHERE name = 'it_code';
UPDATE cdi.identifier_types SET graph = 'account' WHERE name = 'it_code';
UPDATE cdi.identifier_types SET name = 'it_kode' WHERE name = 'it_code';
INSERT INTO cdi.identifier_types (name, priority, paths) VALUES ('it_none', 9, NULL);
-- Who cannot administer cannot.
CREATE ROLE cdi_test_stranger;
SET ROLE cdi_test_stranger;
SELECT cdi_set_identifier_type('it_code', '{}');
SELECT cdi_drop_identifier_type('it_code');
RESET ROLE;
\set VERBOSITY default
-- Equal priorities go by name; a change counts from the next event on.
SELECT cdi_set_identifier_type('it_a', '{"paths": ["traits.a"], "priority": 5, "normaliser": "lower"}'), cdi_set_identifier_type('it_B', '{"paths": ["traits.b"], "priority": 5}');
SELECT * FROM pg_temp.found('{"traits": {"a": "ÄÖ", "b": "ÄÖ"}}');
UPDATE cdi.identifier_types SET blocked_patterns = '{^ä}' WHERE name = 'it_a';
SELECT * FROM pg_temp.found('{"traits": {"a": "ÄÖ", "b": "ÄÖ"}}');
SELECT cdi_set_identifier_type('it_c', '{"paths": ["traits.c"]}');
SELECT cdi_drop_identifier_type('it_c');
SELECT * FROM pg_temp.found('{"traits": {"c": "x"}, "context": {"externalIds": [{"id": 1, "type": "it_c"}]}}');
\set VERBOSITY terse
SELECT cdi_drop_identifier_type('it_c');
SELECT cdi_drop_identifier_type('it_a');
SELECT cdi_resolve() > 0 AS folded;
SELECT cdi_drop_identifier_type('it_a');
SELECT cdi_drop_identifier_type('email');
-- However it is to go
DELETE FROM cdi.identifier_types WHERE name = 'it_code';
DELETE FROM cdi.identifier_types WHERE name = 'email';
TRUNCATE cdi.identifier_types;
\set VERBOSITY default

-- A tombstone is HMAC-SHA-256 of the key under HMAC-SHA-256 of "cdi tombstone" under the installation's key.
CREATE FUNCTION pg_temp.hmac(key bytea, message bytea) RETURNS bytea LANGUAGE plpgsql AS $$
DECLARE
    inner_pad bytea := decode(repeat('36', 64), 'hex');
    outer_pad bytea := decode(repeat('5c', 64), 'hex');
BEGIN
    FOR i IN 0 .. octet_length(key) - 1 LOOP
        inner_pad := set_byte(inner_pad, i, get_byte(inner_pad, i) # get_byte(key, i));
        outer_pad := set_byte(outer_pad, i, get_byte(outer_pad, i) # get_byte(key, i));
    END LOOP;
    RETURN sha256(outer_pad || sha256(inner_pad || message));
END $$;
SELECT cdi_identify('it-gone', '{"email": "it-gone@x.example"}') IS NOT NULL AS stored;
SELECT cdi_resolve() >= 0 AS resolved;
SELECT cdi_erase_identifier('email', 'it-gone@x.example') IS NOT NULL AS erased;
SELECT count(*) AS by_the_formula FROM cdi.identity_tombstones, cdi.identity_key k
WHERE tombstone = pg_temp.hmac(pg_temp.hmac(k.key, 'cdi tombstone'), uuid_send(cdi_identifier('email', 'it-gone@x.example')));
SELECT * FROM pg_temp.found('{"userId": "it-back", "traits": {"email": "it-gone@x.example", "phone": "+14155552671"}}');

SELECT count(cdi_set_identifier_type(name, '{"paths": []}')) FROM cdi.identifier_types WHERE name LIKE 'it\_%';
DROP SCHEMA it_norm CASCADE;
DROP OWNED BY cdi_test_normaliser;
DROP ROLE cdi_test_normaliser, cdi_test_stranger;
SELECT cdi_resolve() >= 0 AS resolved;
