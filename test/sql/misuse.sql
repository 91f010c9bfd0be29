-- Functions called as nothing of cdi calls them, which their privileges allow: refused with a reason, whoever calls.
SET client_min_messages = warning;
CREATE ROLE misuse_admin;
CREATE ROLE misuse_reader;
SELECT cdi_grant_admin('misuse_admin'), cdi_grant_reader('misuse_reader');
GRANT CREATE ON SCHEMA public TO misuse_admin;

-- Trigger functions without a trigger, and on a table whose columns are not those of theirs
SET ROLE misuse_admin;
CREATE TABLE misuse (a integer);
SELECT cdi._identifier_type_check();
SELECT cdi._computed_traits_changed();
SELECT cdi._channels_changed();
SELECT cdi._import_lines();
SELECT cdi._secret_entered();
CREATE TRIGGER misused BEFORE INSERT ON misuse FOR EACH ROW EXECUTE FUNCTION cdi._secret_entered();
INSERT INTO misuse VALUES (1);
CREATE OR REPLACE TRIGGER misused BEFORE INSERT ON misuse FOR EACH STATEMENT EXECUTE FUNCTION cdi._identifier_type_check();
INSERT INTO misuse VALUES (1);
CREATE OR REPLACE TRIGGER misused BEFORE INSERT ON misuse FOR EACH ROW EXECUTE FUNCTION cdi._import_lines();
INSERT INTO misuse VALUES (1);
DROP TABLE misuse;

-- Nulls for arrays
SET ROLE misuse_reader;
SELECT * FROM cdi._attribution_sums(NULL, '{channel}', NULL, NULL, NULL, NULL, '{}');
SELECT * FROM cdi._attribution_sums('{linear}', NULL, NULL, NULL, NULL, NULL, '{}');

-- A state that no transition made, and arrays of conditions whose lengths differ: 31 | 32 would be 63.
SELECT array_length(cdi_retention_conditions(VARIADIC array_fill(true, ARRAY[n])), 1) FROM generate_series(31, 32) n;
SELECT cdi_retention_conditions(VARIADIC c) FROM (VALUES (ARRAY[true]), (ARRAY[false, true, NULL]), ('{}'), (ARRAY[false, false])) v (c);
RESET ROLE;
SELECT array_length(cdi._retention_conditions_final(state), 1) FROM unnest('{9223372036854775807, -1, 4294967295}'::bigint[]) state;

-- Values that run as who declared them: names in them mean what they meant to him, whatever a reader has in a schema of his.
SELECT cdi_create_source('misuse') IS NOT NULL AS created;
SELECT cdi_track('u', 'Misused', '{"revenue": 21}', source => 'misuse') IS NOT NULL AS tracked;
SELECT cdi_create_conversion('misuse', 'Misused', value_expression => $$cdi_property_number(properties, 'revenue') * 2$$);
CREATE SCHEMA misuse AUTHORIZATION misuse_reader;
SET ROLE misuse_reader;
CREATE FUNCTION misuse.cdi_property_number(jsonb, text) RETURNS numeric LANGUAGE plpgsql AS $$ BEGIN RAISE WARNING 'this runs as %', current_user; RETURN 0; END $$;
CREATE FUNCTION misuse.cdi_event_predicate(text, text) RETURNS text LANGUAGE sql AS $$ SELECT 'true' $$;
SET search_path = misuse, public;
SELECT value FROM cdi.conversion_events WHERE conversion = 'misuse';
SELECT value FROM cdi._conversion_values('misuse');
SELECT value FROM cdi._conversion_values('misuse', 'misuse');
RESET search_path;
RESET ROLE;
SELECT cdi_drop_conversion('misuse');

-- An event that lies too far in the future for a history: the reports are there without it.
BEGIN;
SELECT cdi_track('u', 'Misused', source => 'misuse', "timestamp" => '294276-12-31 23:59:59+00') IS NOT NULL AS tracked;
SELECT (SELECT sum(people) FROM cdi_retention('{"event": "Misused"}', as_of => now() + interval '1 day', cohort => 'all', brackets => '0')) AS retention,
       (SELECT sum(new) FROM cdi_lifecycle('{"event": "Misused"}', as_of => now() + interval '1 day')) AS lifecycle,
       (SELECT max(daily) FROM cdi_stickiness('{"event": "Misused"}', as_of => now() + interval '1 day')) AS stickiness;
ROLLBACK;

REVOKE CREATE ON SCHEMA public FROM misuse_admin;
DROP OWNED BY misuse_admin, misuse_reader;
DROP ROLE misuse_admin, misuse_reader;
