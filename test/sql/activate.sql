-- Destinations as data, syncs and what they queue.  Sending is test/t/040_push.pl.
SET client_min_messages = warning;
\set VERBOSITY default

-- Every built-in specification passes its own tests; none is without.
SELECT name, version FROM cdi.destination_specs WHERE builtin AND cdi_check_destination_spec(spec) < 3;

-- The mapping language: what a mapping makes of a row.
CREATE TEMP TABLE mapping (id serial, map jsonb, "row" jsonb, expected text);
COPY mapping (map, "row", expected) FROM stdin WITH (DELIMITER '`', NULL 'absent');
{"@path": "$.a.b[1]"}`{"a": {"b": [1, 2.50]}}`2.50
{"@path": "$[\\"a b\\"].c"}`{"a b": {"c": true}}`true
{"@path": "$.missing.deeper"}`{}`absent
{"@path": "$"}`{"n": 12345678901234567890}`{"n": 12345678901234567890}
{"x": {"@path": "$.x"}, "y": {"@path": "$.y"}}`{"x": null}`{"x":null}
{"x": {"@path": "$.x"}, "y": {"@path": "$.y"}, "@omit": ["null", "empty"]}`{"x": null, "y": ""}`{}
["a", {"@path": "$.x"}, 1]`{}`["a",1]
"{{$.first}} {{$.last|upper}}"`{"first": "Ada", "last": "Lovelace"}`"Ada LOVELACE"
"{{$.n}}/{{item.operation}}/{{settings.region}}"`{"n": 0.10}`"0.10/insert/eu"
{"@first": [{"@path": "$.a"}, {"@path": "$.b"}, {"@path": "$.c"}]}`{"a": "", "b": null, "c": 3}`3
{"@case": {"in": {"@path": "$.plan"}, "of": {"pro": "P"}, "else": "F"}}`{"plan": "pro"}`"P"
{"@case": {"in": {"@path": "$.plan"}, "of": {"pro": "P"}, "else": "F"}}`{"plan": "x"}`"F"
{"@if": {"condition": {"eq": ["$.n", 1]}, "then": "one"}}`{"n": 1.0}`"one"
{"@if": {"condition": {"all": [{"exists": "$.a"}, {"not": {"empty": "$.b"}}]}, "then": 1, "else": 0}}`{"a": 1, "b": []}`0
{"@each": {"in": "$.products", "map": {"id": {"@path": "@.sku"}, "at": {"@path": "$.at"}}}}`{"at": 5, "products": [{"sku": "a"}, {"sku": 19.99}]}`[{"at":5,"id":"a"},{"at":5,"id":19.99}]
{"@merge": [{"a": 1, "b": 1}, {"@path": "$.o"}]}`{"o": {"b": 1e30}}`{"a": 1, "b": 1000000000000000000000000000000}
{"@literal": {"@path": "$.a"}}`{}`{"@path":"$.a"}
{"@pipe": [{"@path": "$.e"}, "trim", "lower"]}`{"e": "  Ada@Example.COM\\t"}`"ada@example.com"
{"@fn": ["upper", {"@path": "$.e"}]}`{"e": "straße é"}`"STRAßE É"
{"@fn": ["nospace", {"@path": "$.e"}]}`{"e": " a b "}`"ab"
{"@fn": ["digits", {"@path": "$.e"}]}`{"e": "+49 (0)30-1"}`"490301"
{"@fn": ["digits", {"@path": "$.e"}]}`{"e": "none"}`absent
{"@fn": ["digits_nolead0", {"@path": "$.e"}]}`{"e": "0030 1"}`"301"
{"@fn": ["alnum", {"@path": "$.e"}]}`{"e": "St. José-1"}`"StJosé1"
{"@fn": ["nopunct", {"@path": "$.e"}]}`{"e": "O'Neil, J."}`"ONeil J"
{"@fn": ["e164", {"@path": "$.e"}, "49"]}`{"e": "030 / 123 45 67"}`"+49301234567"
{"@fn": ["e164", {"@path": "$.e"}, "49"]}`{"e": "0043 1 2345678"}`"+4312345678"
{"@fn": ["e164", {"@path": "$.e"}]}`{"e": "+1 (415) 555-2671"}`"+14155552671"
{"@fn": ["e164", {"@path": "$.e"}]}`{"e": "415 555 2671"}`absent
{"@fn": ["truncate", {"@path": "$.e"}, 2]}`{"e": "äöü"}`"äö"
{"@fn": ["truncate_bytes", {"@path": "$.e"}, 3]}`{"e": "äöü"}`"ä"
{"@fn": ["replace", {"@path": "$.e"}, "aa", "b"]}`{"e": "aaaaa"}`"bba"
{"@fn": ["split", {"@path": "$.e"}, ", ", 1]}`{"e": "a, b, c"}`"b"
{"@fn": ["split", {"@path": "$.e"}, ", ", -1]}`{"e": "a, b, c"}`"c"
{"@fn": ["split", {"@path": "$.e"}, ", ", 3]}`{"e": "a, b, c"}`absent
{"@fn": ["join", {"@path": "$.e"}, "-"]}`{"e": ["a", 1.50, null, true]}`"a-1.50-true"
{"@fn": ["prefix", {"@path": "$.e"}, "id-"]}`{"e": 7}`"id-7"
{"@fn": ["urlencode", {"@path": "$.e"}]}`{"e": "a b/ä~"}`"a%20b%2F%C3%A4~"
{"@fn": ["base64", {"@path": "$.e"}]}`{"e": "foobar"}`"Zm9vYmFy"
{"@fn": ["tonumber", {"@path": "$.e"}]}`{"e": " 12345678901234567890.10 "}`12345678901234567890.10
{"@fn": ["tonumber", {"@path": "$.e"}]}`{"e": "0x10"}`absent
{"@fn": ["tonumber", {"@path": "$.e"}]}`{"e": "NaN"}`absent
{"@fn": ["int", {"@path": "$.e"}]}`{"e": -19.99}`-19
{"@fn": ["round", {"@path": "$.e"}, 1]}`{"e": "2.25"}`2.3
{"@fn": ["cents", {"@path": "$.e"}]}`{"e": 19.99}`1999
{"@fn": ["tostring", {"@path": "$.e"}]}`{"e": 1.10}`"1.10"
{"@fn": ["tobool", {"@path": "$.e"}]}`{"e": "TRUE"}`true
{"@fn": ["tobool", {"@path": "$.e"}]}`{"e": "yes"}`absent
{"@fn": ["json", {"@path": "$.e"}]}`{"e": [1, "a"]}`"[1, \\"a\\"]"
{"@pipe": [{"@path": "$.e"}, ["default", "none"]]}`{}`"none"
{"@fn": ["epoch_s", {"@path": "$.e"}]}`{"e": "1969-12-31T23:59:59.5Z"}`-1
{"@fn": ["epoch_ms", {"@path": "$.e"}]}`{"e": "2026-01-02T03:04:05.678+02:00"}`1767315845678
{"@fn": ["epoch_us", {"@path": "$.e"}]}`{"e": 1767315845.678}`1767315845678000
{"@fn": ["epoch_s", {"@path": "$.e"}]}`{"e": 1767315845678}`1767315845
{"@fn": ["iso8601", {"@path": "$.e"}]}`{"e": "2026-01-02 03:04:05+02"}`"2026-01-02T01:04:05Z"
{"@fn": ["iso_ms", {"@path": "$.e"}]}`{"e": 0}`"1970-01-01T00:00:00.000Z"
{"@fn": ["date", {"@path": "$.e"}]}`{"e": "2026-01-02T23:30:00-01:00"}`"2026-01-03"
{"@fn": ["date", {"@path": "$.e"}]}`{"e": "yesterday"}`absent
{"@fn": ["sha256", {"@path": "$.e"}]}`{"e": ""}`absent
{"@fn": ["sha256_unless_hashed", {"@path": "$.e"}]}`{"e": "E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855"}`"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
{"@fn": ["lower", {"@path": "$.e"}]}`{"e": null}`null
\.
SELECT count(*) AS mappings FROM mapping;
SELECT id, map, "row", expected, got
FROM mapping, cdi._map(map, "row", '{"region": "eu"}') AS got
WHERE got IS DISTINCT FROM expected;
-- Digests against the server's own.
SELECT cdi._map('{"@fn": ["sha256", {"@path": "$.e"}]}', '{"e": "ada@example.com"}')
       = to_json(encode(sha256('ada@example.com'), 'hex'))::text AS sha256,
       cdi._map('{"@fn": ["md5", {"@path": "$.e"}]}', '{"e": "ada@example.com"}') = to_json(md5('ada@example.com'))::text AS md5,
       cdi._map('{"@fn": ["sha1", {"@path": "$.e"}]}', '{"e": "abc"}') = '"a9993e364706816aba3e25717850c26c9cd0d89d"' AS sha1;
-- A number leaves as the text that came in.
SELECT cdi._map('{"a": {"@path": "$.a"}}', '{"a": [19.99, 0.1, 12345678901234567890, 1.0, 1.10]}') AS numbers,
       cdi._map('{"@path": "$.a"}', '{"a": 1e400}') = '1' || repeat('0', 400) AS huge;

-- A specification with a mistake is not installed.
CREATE FUNCTION pg_temp.spec(VARIADIC changes text[] DEFAULT '{}') RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    spec jsonb := '{"$schema": "cdi-dest-1", "name": "crm", "version": "1",
        "settings": {"type": "object", "required": ["token"], "properties": {"token": {"type": "string", "secret": true}, "region": {"enum": ["eu", "us"], "type": "string", "default": "eu"}}},
        "vars": {"base": "https://{{settings.region}}.crm.example"},
        "egress": {"allow_hosts": ["*.crm.example"]},
        "auth": {"type": "bearer", "token": "{{secret.token}}"},
        "actions": {"contacts": {"ops": ["insert", "update"],
            "map": {"id": {"@path": "$.id"}, "email": {"@pipe": [{"@path": "$.email"}, "trim", "lower"]}},
            "require": ["email"],
            "batch": {"max_items": 2},
            "request": {"method": "POST", "url": "{{vars.base}}/contacts", "body": {"format": "json", "template": {"contacts": {"@items": "*"}}}}}},
        "tests": [{"settings": {"token": "env:CDI_TOKEN", "region": "us"}, "secrets": {"token": "t"},
            "rows": [{"operation": "insert", "primary_key": "1", "row": {"id": 1, "email": " A@B "}}, {"operation": "insert", "primary_key": "2", "row": {"id": 2}}],
            "expect": {"url": "https://us.crm.example/contacts", "headers": {"Authorization": "Bearer t"}, "invalid": [1], "body": {"contacts": [{"id": 1, "email": "a@b"}]}}}]}';
BEGIN
    FOR i IN 1 .. coalesce(array_length(changes, 1), 0) BY 2 LOOP
        spec := jsonb_set(spec, changes[i]::text[], changes[i + 1]::jsonb);
    END LOOP;
    RETURN spec;
END $$;
SELECT cdi_check_destination_spec(pg_temp.spec());
\set request {actions,contacts,request
\set map {actions,contacts,map
SELECT cdi_check_destination_spec(pg_temp.spec('{surprise}', '1'));
SELECT cdi_check_destination_spec(pg_temp.spec('{$schema}', '"other"'));
SELECT cdi_check_destination_spec(pg_temp.spec('{actions}', '{}'));
SELECT cdi_check_destination_spec(pg_temp.spec('{actions,contacts,ops}', '["upsert"]'));
SELECT cdi_check_destination_spec(pg_temp.spec(:'map' || ',x}', '{"@pipe": [{"@path": "$.x"}, "rot13"]}'));
SELECT cdi_check_destination_spec(pg_temp.spec(:'map' || ',x}', '{"@fn": ["truncate", {"@path": "$.x"}]}'));
SELECT cdi_check_destination_spec(pg_temp.spec(:'map' || ',x}', '{"@fn": ["truncate", {"@path": "$.x"}, "2"]}'));
SELECT cdi_check_destination_spec(pg_temp.spec(:'map' || ',x}', '{"@path": "x.y"}'));
SELECT cdi_check_destination_spec(pg_temp.spec(:'map' || ',x}', '{"@path": "$.a..b"}'));
SELECT cdi_check_destination_spec(pg_temp.spec(:'map' || ',x}', '{"@loop": 1}'));
SELECT cdi_check_destination_spec(pg_temp.spec(:'map' || ',x}', '"{{secret.token}}"'));
SELECT cdi_check_destination_spec(pg_temp.spec(:'map' || ',x}', '"{{$.x"'));
SELECT cdi_check_destination_spec(pg_temp.spec(:'map' || ',x}', '{"@items": "*"}'));
SELECT cdi_check_destination_spec(pg_temp.spec('{actions,contacts,require}', '["phone"]'));
SELECT cdi_check_destination_spec(pg_temp.spec(:'request' || ',url}', '"{{@.operation}}"'));
SELECT cdi_check_destination_spec(pg_temp.spec(:'request' || ',timeout}', '"soon"'));
SELECT cdi_check_destination_spec(pg_temp.spec(:'request' || ',body}', '{"format": "xml"}'));
SELECT cdi_check_destination_spec(pg_temp.spec('{auth}', '{"type": "magic"}'));
SELECT cdi_check_destination_spec(pg_temp.spec('{actions,contacts,response}', '{"rules": [{"status": [99], "class": "ok"}]}'));
SELECT cdi_check_destination_spec(pg_temp.spec('{actions,contacts,response}', '{"rules": [{"status": ["2xx"], "class": "fine"}]}'));
-- Its tests must pass.
SELECT cdi_check_destination_spec(pg_temp.spec('{tests,0,expect,url}', '"https://eu.crm.example/contacts"'));
SELECT cdi_check_destination_spec(pg_temp.spec('{tests,0,expect,invalid}', '[]'));
SELECT cdi_check_destination_spec(pg_temp.spec('{tests,0,expect,body,contacts,0,id}', '2'));
-- How answers are read: rules in order, conditions on the body, rows by index or by place.
SELECT cdi_check_destination_spec(pg_temp.spec(
    '{actions,contacts,response}',
    '{"rules": [
        {"status": [200], "when": {"eq": ["$.code", 40100]}, "class": "throttled"},
        {"status": [200], "class": "ok", "rows": {"each": "$.results", "when": {"eq": ["@.success", false]}, "message": "@.error"}},
        {"status": [400], "class": "rejected", "rows": {"each": "$.failed", "index": "@.n", "class": "retryable"}},
        {"status": ["timeout"], "class": "rejected"}]}',
    '{tests}',
    '[{"settings": {"token": "env:CDI_X"}, "answer": {"status": 200, "body": {"code": 40100}}, "expect": {"class": "throttled", "rows": []}},
      {"settings": {"token": "env:CDI_X"}, "rows": [1, 2, 3], "answer": {"status": 200, "body": {"results": [{"success": true}, {"success": false, "error": "no"}, {"success": true}]}},
       "expect": {"class": "ok", "rows": [{"index": 1, "class": "rejected", "message": "no"}]}},
      {"settings": {"token": "env:CDI_X"}, "rows": [1, 2], "answer": {"status": 400, "body": {"failed": [{"n": 0}, {"n": 0}, {"n": 7}, {"n": "x"}, 5]}},
       "expect": {"class": "rejected", "rows": [{"index": 0, "class": "retryable"}]}},
      {"settings": {"token": "env:CDI_X"}, "answer": {"status": 200, "body": "<html>"}, "expect": {"class": "retryable", "rows": []}},
      {"settings": {"token": "env:CDI_X"}, "answer": {"failure": "timeout"}, "expect": {"class": "rejected", "split": false}},
      {"settings": {"token": "env:CDI_X"}, "answer": {"failure": "refused"}, "expect": {"class": "auth"}},
      {"settings": {"token": "env:CDI_X"}, "secrets": {"token": "s3cret-token"}, "rows": [1], "answer": {"status": 400, "body": {"failed": [{"n": 0, "token": "s3cret-token"}]}},
       "expect": {"class": "rejected", "rows": [{"index": 0, "message": "{\"n\": 0, \"token\": \"***\"}"}]}}]'));
SELECT cdi_install_destination_spec(pg_temp.spec());
SELECT cdi_install_destination_spec(pg_temp.spec('{version}', '"2"'));
SELECT cdi_install_destination_spec(spec) FROM cdi.destination_specs WHERE name = 'webhook';

-- Settings are checked; secrets are references.
SELECT cdi_create_destination('crm', 'crm', '{"token": "env:CDI_CRM", "region": "us"}') > 0 AS created;
SELECT spec_name, spec_version, settings FROM cdi.destinations WHERE name = 'crm';
SELECT cdi_create_destination('old crm', 'crm@1', '{"token": "file:crm"}') > 0 AS created;
SELECT cdi_create_destination('crm', 'crm', '{"token": "env:CDI_CRM"}');
SELECT cdi_create_destination('x', 'crm@3', '{}');
SELECT cdi_create_destination('x', 'crm', '{}');
SELECT cdi_create_destination('x', 'crm', '{"token": "t0psecret"}');
SELECT cdi_create_destination('x', 'crm', '{"token": 7}');
SELECT cdi_create_destination('x', 'crm', '{"token": "env:CDI_CRM", "region": "mars"}');
SELECT cdi_create_destination('x', 'crm', '{"token": "env:CDI_CRM", "colour": "red"}');
SELECT cdi_create_destination('x', settings => '{"url": "https://example.com", "headers": {"Authorization": "Bearer x"}}');
SELECT cdi_create_destination('x', settings => '{"url": "https://ada:secret@example.com/"}');
SELECT cdi_create_destination('x', settings => '{"url": "https://example.com", "batch_size": 0}');
SELECT cdi_create_destination(NULL);
SELECT cdi_alter_destination('crm', '{"token": "env:CDI_CRM2"}');
SELECT cdi_alter_destination('crm', '{"token": "t0psecret"}');
SELECT cdi_alter_destination('nobody', '{}');
SELECT spec_version, settings FROM cdi.destinations WHERE name = 'crm';

-- Models: one SELECT with a key, run as its declarer, who can read and never write.
SELECT cdi_create_destination('hook', settings => '{"url": "https://example.com/"}') > 0 AS created;
CREATE TABLE customers (id integer, email text, revenue numeric);
INSERT INTO customers VALUES (1, 'a@x.example', 19.99), (2, 'b@x.example', 0.1), (3, 'c@x.example', 12345678901234567890), (4, 'd@x.example', 1);
SELECT cdi_create_sync('s', 'nobody', 'SELECT 1 AS id', 'id');
SELECT cdi_create_sync('s', 'hook', 'SELECT * FROM customers', 'key');
SELECT cdi_create_sync('s', 'hook', 'SELECT *, 1 AS id FROM customers', 'id');
SELECT cdi_create_sync('s', 'hook', 'SELECT 1 AS id; SELECT 2 AS id', 'id');
SELECT cdi_create_sync('s', 'hook', 'SELECT 1 AS id) x, (SELECT 2 AS id', 'id');
SELECT cdi_create_sync('s', 'hook', 'TRUNCATE customers', 'id');
SELECT cdi_create_sync('s', 'hook', 'DELETE FROM customers RETURNING id', 'id');
SELECT cdi_create_sync('s', 'hook', 'WITH d AS (DELETE FROM customers RETURNING id) SELECT * FROM d', 'id');
SELECT cdi_create_sync('s', 'hook', 'SELECT * FROM customers FOR UPDATE', 'id');
SELECT cdi_create_sync('s', 'hook', 'SELECT * INTO other FROM customers', 'id');
SELECT cdi_create_sync('s', 'hook', 'SELECT * FROM no_such_table', 'id');
SELECT cdi_create_sync('s', 'hook', 'SELECT * FROM customers', 'id', 'teleport');
SELECT cdi_create_sync('s', 'hook', 'SELECT * FROM customers', NULL);
SELECT count(*) AS customers FROM customers;

CREATE ROLE cdi_test_analyst;
SELECT cdi_grant_admin('cdi_test_analyst');
CREATE TABLE hidden (id integer);
CREATE FUNCTION sneak() RETURNS integer LANGUAGE plpgsql AS $$ BEGIN INSERT INTO customers VALUES (99); RETURN 1; END $$;
CREATE FUNCTION escape() RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM set_config('role', 'none', false); RETURN current_user; END $$;
CREATE FUNCTION unlock() RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM set_config('transaction_read_only', 'off', false); INSERT INTO customers VALUES (99); RETURN 'written'; END $$;
GRANT SELECT, INSERT ON customers TO cdi_test_analyst;
SET ROLE cdi_test_analyst;
SELECT cdi_create_sync('s', 'hook', 'SELECT * FROM hidden', 'id');
SELECT cdi_create_sync('who', 'hook', 'SELECT 1 AS id, current_user AS who, current_setting(''TimeZone'') AS tz', 'id') > 0 AS created;
SELECT cdi_create_sync('sneak', 'hook', 'SELECT sneak() AS id', 'id') > 0 AS created;
SELECT cdi_create_sync('escape', 'hook', 'SELECT 1 AS id, escape()', 'id') > 0 AS created;
SELECT cdi_create_sync('unlock', 'hook', 'SELECT 1 AS id, unlock()', 'id') > 0 AS created;
UPDATE cdi.syncs SET run_as = 'postgres';
INSERT INTO cdi.destinations (name, spec_name, spec_version) VALUES ('direct', 'webhook', '1');
RESET ROLE;
-- Whoever runs it, it runs as its declarer.
SELECT cdi_sync_run('who') > 0 AS ran;
SELECT payload FROM cdi.outbox ORDER BY position DESC LIMIT 1;
SELECT cdi_sync_run('sneak');
SELECT cdi_sync_run('escape');
SELECT cdi_sync_run('unlock');
SELECT count(*) AS customers FROM customers;
SELECT cdi_create_sync('slow', 'hook', 'SELECT 1 AS id, pg_sleep(10)::text', 'id') > 0 AS created;
SET cdi.activate_model_timeout = '1s';
SELECT cdi_sync_run('slow');
RESET cdi.activate_model_timeout;
-- A failed run inside a block that catches its error leaves the session whole.
DO $$ BEGIN PERFORM cdi_sync_run('sneak'); EXCEPTION WHEN read_only_sql_transaction THEN RAISE WARNING 'caught'; END $$;
SHOW transaction_read_only;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT cdi_sync_run('who');
ROLLBACK;

-- What a run finds, against what was acknowledged.
SELECT cdi_create_sync('customers', 'hook', 'SELECT * FROM customers -- all of them', 'id') > 0 AS created;
SELECT cdi_create_sync('customers', 'hook', 'SELECT * FROM customers', 'id');
CREATE FUNCTION pg_temp.last_run(OUT queried bigint, OUT added bigint, OUT changed bigint, OUT removed bigint, OUT unchanged bigint, OUT invalid bigint, OUT queued bigint, OUT adds_up boolean)
LANGUAGE sql AS $$
SELECT queried, added, changed, removed, unchanged, invalid, queued, queried = added + changed + removed + unchanged + invalid
FROM cdi.sync_runs ORDER BY run_id DESC LIMIT 1 $$;
-- What the push worker does when a destination has accepted or refused rows.
CREATE FUNCTION pg_temp.acknowledge(keys text[], refused text[] DEFAULT '{}') RETURNS void LANGUAGE sql AS $$
WITH open AS (
    SELECT o.* FROM cdi.outbox o JOIN cdi.syncs s USING (sync_id) LEFT JOIN cdi.push_cursor c USING (sync_id)
    WHERE s.name = 'customers' AND o.position > coalesce(c.position, 0)),
newest AS (
    SELECT DISTINCT ON (primary_key) * FROM open ORDER BY primary_key, position DESC),
accepted AS (
    INSERT INTO cdi.sync_rows SELECT sync_id, primary_key, hash, payload, now(), row_hash FROM newest WHERE primary_key = ANY (keys) AND operation <> 'delete'
    ON CONFLICT (sync_id, primary_key) DO UPDATE SET hash = excluded.hash, payload = excluded.payload, row_hash = excluded.row_hash),
removed AS (
    DELETE FROM cdi.sync_rows r USING newest o WHERE o.primary_key = ANY (keys) AND o.operation = 'delete' AND (r.sync_id, r.primary_key) = (o.sync_id, o.primary_key)),
settled AS (
    DELETE FROM cdi.failed_deliveries f USING newest o WHERE o.primary_key = ANY (keys) AND (f.sync_id, f.primary_key) = (o.sync_id, o.primary_key)),
failed AS (
    INSERT INTO cdi.failed_deliveries (position, failed_at, sync_id, run_id, operation, primary_key, hash, idempotency_key, payload, class, attempts)
    SELECT position, now(), sync_id, run_id, operation, primary_key, hash, idempotency_key, payload, 'rejected', 1 FROM newest WHERE primary_key = ANY (refused)
    ON CONFLICT (sync_id, primary_key) DO UPDATE SET position = excluded.position)
INSERT INTO cdi.push_cursor
SELECT sync_id, coalesce(min(position) FILTER (WHERE primary_key <> ALL (keys || refused)) - 1, max(position)) FROM open GROUP BY sync_id
ON CONFLICT (sync_id) DO UPDATE SET position = excluded.position $$;
CREATE VIEW queued AS
SELECT o.operation, o.primary_key, o.payload FROM cdi.outbox o
WHERE run_id = (SELECT max(run_id) FROM cdi.sync_runs) ORDER BY o.primary_key;

SELECT cdi_sync_run('customers') > 0 AS ran;
SELECT * FROM pg_temp.last_run();
SELECT * FROM queued;
-- What is on its way is not queued again.
SELECT cdi_sync_run('customers') > 0 AS ran;
SELECT * FROM pg_temp.last_run();
SELECT pg_temp.acknowledge('{1,2,3,4}');
SELECT cdi_sync_run('customers') > 0 AS ran;
SELECT * FROM pg_temp.last_run();
-- Added, changed, removed, unchanged; null and duplicate keys are invalid and not removed.
UPDATE customers SET email = 'new@x.example' WHERE id = 1;
DELETE FROM customers WHERE id = 2;
INSERT INTO customers VALUES (5, 'e@x.example', 5), (NULL, 'f@x.example', 6), (3, 'twice@x.example', 7);
SELECT cdi_sync_run('customers') > 0 AS ran;
SELECT * FROM pg_temp.last_run();
SELECT * FROM queued;
-- A row that was refused differs from what was acknowledged: it goes again, under the same idempotency key.
SELECT pg_temp.acknowledge('{1,2}', '{5}');
DELETE FROM customers WHERE email IN ('f@x.example', 'twice@x.example');
SELECT cdi_sync_run('customers') > 0 AS ran;
SELECT * FROM pg_temp.last_run();
SELECT * FROM queued;
SELECT count(DISTINCT o.idempotency_key) AS keys, count(*) AS times FROM cdi.outbox o JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'customers' AND o.primary_key = '5';
-- A row that returns to a former state is not a repetition of it.
SELECT pg_temp.acknowledge('{5}');
UPDATE customers SET email = 'a@x.example' WHERE id = 1;
SELECT cdi_sync_run('customers') > 0 AS ran;
SELECT count(DISTINCT o.idempotency_key) AS keys, count(DISTINCT o.hash) AS states, count(*) AS times FROM cdi.outbox o JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'customers' AND o.primary_key = '1';
-- A change while another is on its way is queued behind it; a removal, too.
UPDATE customers SET email = 'later@x.example' WHERE id = 1;
SELECT cdi_sync_run('customers') > 0 AS ran;
SELECT * FROM queued;
DELETE FROM customers WHERE id = 1;
SELECT cdi_sync_run('customers') > 0 AS ran;
SELECT * FROM queued;
SELECT cdi_sync_run('customers') > 0 AS ran;
SELECT * FROM pg_temp.last_run();
SELECT pg_temp.acknowledge('{1}');
SELECT r.primary_key FROM cdi.sync_rows r JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'customers' ORDER BY 1;

-- Dead letters are replayed, unless something newer is on its way.
UPDATE customers SET revenue = revenue + 1;
SELECT cdi_sync_run('customers') > 0 AS ran;
SELECT pg_temp.acknowledge('{3}', '{4,5}');
UPDATE customers SET revenue = revenue + 1 WHERE id = 4;
SELECT cdi_sync_run('customers') > 0 AS ran;
SELECT * FROM pg_temp.last_run();
SELECT pg_temp.acknowledge('{}', '{5}');
SELECT cdi_replay_delivery(sync => 'customers') AS replayed;
SELECT f.primary_key FROM cdi.failed_deliveries f;
SELECT cdi_replay_delivery('{1,2,3}');

-- An action that does not serve deletions has none queued.
SELECT cdi_create_sync('contacts', 'crm', 'SELECT * FROM customers', 'id') > 0 AS created;
SELECT cdi_sync_run('contacts') > 0 AS ran;
INSERT INTO cdi.sync_rows SELECT o.sync_id, o.primary_key, o.hash, o.payload, now(), o.row_hash FROM cdi.outbox o JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'contacts';
INSERT INTO cdi.push_cursor SELECT sync_id, max(position) FROM cdi.outbox JOIN cdi.syncs USING (sync_id) WHERE name = 'contacts' GROUP BY 1;
DELETE FROM customers WHERE id = 5;
SELECT cdi_sync_run('contacts') > 0 AS ran;
SELECT * FROM pg_temp.last_run();
SELECT cdi_sync_run('contacts') > 0 AS ran;
SELECT * FROM pg_temp.last_run();

-- Turning off, dropping.
SELECT cdi_sync_pause('contacts');
SELECT cdi_sync_run('contacts');
SELECT cdi_sync_resume('contacts');
SELECT cdi_disable_destination('crm');
SELECT cdi_sync_run('contacts');
SELECT cdi_drop_destination('crm');
SELECT cdi_drop_sync('contacts');
SELECT cdi_drop_destination('crm');
SELECT cdi_sync_run('contacts');
SELECT cdi_drop_sync('contacts');
SELECT cdi_enable_destination('crm');

-- Arming.
SELECT cdi_armed();
SELECT cdi_arm();
SELECT cdi_armed();
SELECT cdi_disarm();
SELECT cdi_armed();
SELECT cdi_arm();
-- What a copy looks like: the record names another installation.
UPDATE cdi.armed SET system_identifier = 1;
SELECT cdi_armed();
SELECT cdi_arm();
BEGIN;
SELECT cdi_arm(trust => true);
SELECT cdi_armed(), count(*) > 0 AS acknowledged FROM cdi.sync_rows;
ROLLBACK;
SELECT cdi_arm(trust => false);
SELECT cdi_armed(), count(*) > 0 AS acknowledged FROM cdi.sync_rows;
SELECT cdi_sync_run('customers') > 0 AS ran;
SELECT * FROM pg_temp.last_run();
SELECT cdi_disarm();

-- Nobody may do any of this who was not told so.
CREATE ROLE cdi_test_nobody;
SET ROLE cdi_test_nobody;
SELECT cdi_sync_run('customers');
SELECT cdi_create_destination('x');
SELECT cdi_arm();
SELECT * FROM cdi.outbox;
RESET ROLE;

SELECT cdi_drop_sync(name) FROM cdi.syncs ORDER BY name;
SELECT cdi_drop_destination(name) FROM cdi.destinations ORDER BY name;
DELETE FROM cdi.destination_specs WHERE NOT builtin;
DROP VIEW queued;
DROP TABLE customers, hidden;
DROP FUNCTION sneak(), escape(), unlock();
DROP OWNED BY cdi_test_analyst;
DROP ROLE cdi_test_analyst, cdi_test_nobody;

-- Every built-in specification passes its own tests; each has some, and each
-- action has one that builds a request.
SELECT name, version FROM cdi.destination_specs WHERE builtin AND cdi_check_destination_spec(spec) < 5;
SELECT count(*) >= 23 AS all_there, sum(cdi_check_destination_spec(spec)) > 200 AS tested FROM cdi.destination_specs WHERE builtin;
SELECT s.name, a.action FROM cdi.destination_specs s, jsonb_object_keys(s.spec -> 'actions') a(action)
WHERE builtin AND NOT EXISTS (SELECT FROM jsonb_array_elements(s.spec -> 'tests') t
  WHERE COALESCE(t ->> 'action', s.spec ->> 'default_action', a.action) = a.action AND t ? 'rows' AND NOT t ? 'answer');
-- A test that does not hold fails the check.
SELECT cdi_check_destination_spec(jsonb_set(spec, '{tests,0,expect,url}', '"https://elsewhere.example/"')) FROM cdi.destination_specs WHERE name = 'tiktok-events';
-- Where requests may go besides the list: a setting that is there and no secret
SELECT cdi_check_destination_spec(jsonb_set(spec, '{egress,setting}', '"nowhere"')) FROM cdi.destination_specs WHERE name = 'slack';
SELECT cdi_check_destination_spec(jsonb_set(spec, '{egress,setting}', '"token"')) FROM cdi.destination_specs WHERE name = 'slack';
-- What is missing is said at once, with what it is.
SELECT cdi_create_destination('x', 'meta-conversions', '{"api_version": "v25.0"}');
