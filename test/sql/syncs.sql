-- Syncs: what each mode sends, what the destination gets of a row, how a run is
-- looked at before it happens.  Nothing is sent here: the outbox says what would be.
SET IntervalStyle = 'postgres';
CREATE TABLE sync_people (id integer PRIMARY KEY, email text, name text, age integer, seen bigint, note text);
INSERT INTO sync_people VALUES (1, 'Ada@Example.com', 'Ada', 36, 1, 'a'), (2, 'bob@example.com', NULL, NULL, 2, 'b'), (3, NULL, 'Cy', 50, 3, 'c');
SELECT cdi_create_destination('syncs', settings => '{"url": "https://syncs.example/rows"}') > 0 AS created;
CREATE VIEW sync_outbox AS
  SELECT s.name, o.operation, o.primary_key, o.payload, o.position FROM cdi.outbox o JOIN cdi.syncs s USING (sync_id);
-- As if everything that is queued had been accepted
CREATE FUNCTION sync_acknowledge(sync text) RETURNS void LANGUAGE sql AS $$
  WITH s AS (SELECT * FROM cdi.syncs WHERE name = sync),
  latest AS (SELECT DISTINCT ON (o.primary_key) o.* FROM cdi.outbox o JOIN s USING (sync_id)
             WHERE o.position > coalesce((SELECT c.position FROM cdi.push_cursor c WHERE c.sync_id = s.sync_id), 0) ORDER BY o.primary_key, o.position DESC),
  gone AS (DELETE FROM cdi.sync_rows r USING latest l, s WHERE l.operation = 'delete' AND s.mode <> 'delete' AND r.sync_id = l.sync_id AND r.primary_key = l.primary_key),
  kept AS (INSERT INTO cdi.sync_rows SELECT l.sync_id, l.primary_key, l.hash, l.payload, now(), l.row_hash FROM latest l, s WHERE l.operation <> 'delete' OR s.mode = 'delete'
           ON CONFLICT (sync_id, primary_key) DO UPDATE SET hash = excluded.hash, payload = excluded.payload, row_hash = excluded.row_hash)
  INSERT INTO cdi.push_cursor SELECT s.sync_id, max(l.position) FROM latest l, s GROUP BY s.sync_id
  ON CONFLICT (sync_id) DO UPDATE SET position = excluded.position $$;

-- Modes: the same history, seen by each
SELECT cdi_create_sync('m-' || m, 'syncs', 'SELECT id, email FROM sync_people', 'id', mode => m) > 0 AS created
FROM unnest('{mirror,upsert,insert,update,append,delete,full}'::text[]) m;
SELECT count(cdi_sync_run(name)) FROM cdi.syncs WHERE name LIKE 'm-%';
SELECT count(*) FROM cdi.syncs, sync_acknowledge(name) WHERE name LIKE 'm-%';
UPDATE sync_people SET email = 'ada@example.org' WHERE id = 1;
DELETE FROM sync_people WHERE id = 3;
INSERT INTO sync_people VALUES (4, 'dee@example.com', 'Dee', 20, 4, 'd');
SELECT count(cdi_sync_run(name)) FROM cdi.syncs WHERE name LIKE 'm-%';
SELECT name, string_agg(primary_key || ' ' || operation, ', ' ORDER BY position) AS sent FROM sync_outbox WHERE name LIKE 'm-%' GROUP BY name ORDER BY name;
SELECT count(*) FROM cdi.syncs, sync_acknowledge(name) WHERE name LIKE 'm-%';
-- A third run, in which nothing has changed, sends what each mode must: nothing, but for full.
CREATE TEMP TABLE third AS SELECT name, cdi_sync_run(name) AS run_id FROM cdi.syncs WHERE name LIKE 'm-%';
SELECT t.name, r.queried, r.added, r.changed, r.removed, r.unchanged, r.queued, r.queried = r.added + r.changed + r.removed + r.unchanged + r.invalid AS adds_up
FROM third t JOIN cdi.sync_runs r USING (run_id) ORDER BY 1;
SELECT cdi_create_sync('m-wrong', 'syncs', 'SELECT id FROM sync_people', 'id', mode => 'merge');

-- What the destination gets of a row: only what the mapping makes of it counts as a change.
SELECT cdi_create_sync('mapped', 'syncs', 'SELECT * FROM sync_people', 'id', mapping =>
  '{"email": {"@pipe": [{"@path": "$.email"}, "lower"]}, "profile": {"name": {"@path": "$.name"}}, "age": {"@path": "$.age"}, "constant": "x"}',
  nulls => '{"*": "omit", "age": "send"}') > 0 AS created;
SELECT cdi_sync_run('mapped') > 0 AS ran;
SELECT primary_key, payload FROM sync_outbox WHERE name = 'mapped' ORDER BY 1;
UPDATE sync_people SET note = 'other', seen = 9, email = upper(email) WHERE id = 1;
CREATE TEMP TABLE again AS SELECT cdi_sync_run('mapped') AS run_id;
SELECT r.queried, r.unchanged, r.queued FROM again JOIN cdi.sync_runs r USING (run_id);
-- Without a mapping nulls go as the action says: the webhook sends them.
SELECT cdi_create_sync('nulls', 'syncs', 'SELECT id, name, age FROM sync_people WHERE id = 2', 'id', nulls => '{"age": "omit"}') > 0 AS created;
SELECT cdi_sync_run('nulls') > 0 AS ran;
SELECT payload FROM sync_outbox WHERE name = 'nulls';

-- A column that grows with every change: only what lies ahead is looked at.
SELECT cdi_create_sync('changes', 'syncs', 'SELECT id, name, seen FROM sync_people', 'id', change_column => 'seen') > 0 AS created;
SELECT cdi_sync_run('changes') > 0 AS ran;
SELECT sync_acknowledge('changes');
SELECT change_value FROM cdi.syncs WHERE name = 'changes';
UPDATE sync_people SET name = 'unseen' WHERE id = 2;
UPDATE sync_people SET name = 'Dora', seen = 10 WHERE id = 4;
DELETE FROM sync_people WHERE id = 1;
CREATE TEMP TABLE step AS SELECT cdi_sync_run('changes') AS run_id;
SELECT r.queried, r.added, r.changed, r.removed, r.unchanged, r.queued FROM step JOIN cdi.sync_runs r USING (run_id);
SELECT primary_key, operation, payload FROM sync_outbox WHERE name = 'changes' ORDER BY position DESC LIMIT 1;
-- Everything, once in a while: what was missed, and what is gone
CREATE TEMP TABLE whole AS SELECT cdi_sync_run('changes', everything => true) AS run_id;
SELECT r.queried, r.added, r.changed, r.removed, r.unchanged, r.queued FROM whole JOIN cdi.sync_runs r USING (run_id);
SELECT cdi_create_sync('changes-2', 'syncs', 'SELECT id FROM sync_people', 'id', change_column => 'seen');

-- A look ahead: the requests, and nothing else
SELECT cdi_create_destination('previewed', settings => '{"url": "env:CDI_URL", "authorization": "env:CDI_TOKEN", "signing_secret": "file:key", "batch_size": 2}') > 0 AS created;
SELECT cdi_create_sync('preview', 'previewed', 'SELECT id, name FROM sync_people UNION ALL SELECT 7, ''X'' UNION ALL SELECT NULL, ''nobody''', 'id') > 0 AS created;
SELECT request, stage, operations, primary_keys, method, url, headers || '{"Idempotency-Key": "..."}' AS headers, regexp_replace(body, '"idempotency_key":"[^"]*"', '"idempotency_key":"..."', 'g') AS body, error FROM cdi_sync_preview('preview');
SELECT request, primary_keys FROM cdi_sync_preview('preview', 1);
SELECT count(*) AS queued FROM sync_outbox WHERE name = 'preview';
SELECT count(*) AS runs FROM cdi.sync_runs r JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'preview';
SELECT * FROM cdi_sync_preview('preview', 0);

-- One row
SELECT cdi_sync_test_row('preview', '7') > 0 AS queued;
SELECT primary_key, operation, payload FROM sync_outbox WHERE name = 'preview';
SELECT cdi_sync_test_row('preview', '99');

-- Pause, resume, begin anew
SELECT cdi_sync_pause('preview', 'the colours are wrong');
SELECT cdi_sync_run('preview');
SELECT cdi_sync_resume('preview');
SELECT paused_reason FROM cdi.syncs WHERE name = 'preview';
SELECT cdi_sync_reset('m-mirror');
CREATE TEMP TABLE anew AS SELECT cdi_sync_run('m-mirror') AS run_id;
SELECT r.added, r.removed, r.unchanged FROM anew JOIN cdi.sync_runs r USING (run_id);
SELECT cdi_sync_reset('nobody');

-- Changed: what is not given stays.
SELECT cdi_alter_sync('mapped', mode => 'upsert', nulls => '{"*": "send"}');
SELECT mode, mapping IS NOT NULL AS mapped, nulls FROM cdi.syncs WHERE name = 'mapped';
SELECT cdi_alter_sync('mapped', mapping => '{}');
SELECT mapping FROM cdi.syncs WHERE name = 'mapped';
SELECT cdi_alter_sync('nobody', mode => 'full');

-- When it runs by itself: test/t/042_schedule.pl; here what cannot be.
SELECT cdi_sync_schedule('m-full', every => '10 minutes');
SELECT schedule_every, schedule_after, schedule_on_change FROM cdi.syncs WHERE name = 'm-full';
SELECT cdi_sync_schedule('m-insert', after => 'm-full'), cdi_sync_schedule('m-update', after => 'm-insert');
SELECT cdi_sync_schedule('m-full', after => 'm-update');
SELECT cdi_sync_schedule('m-full', after => 'm-full');
SELECT cdi_sync_schedule('m-full', every => '0.5 seconds');
SELECT cdi_sync_schedule('m-full', every => '1 hour', on_change => true);
SELECT cdi_sync_schedule('m-full', after => 'nobody');
SELECT cdi_sync_schedule('m-full', cron => '* * * * *');
SELECT cdi_drop_sync('m-insert');
SELECT cdi_sync_schedule('m-update'), cdi_drop_sync('m-insert'), cdi_sync_schedule('m-full');

-- An action that maps rows itself: what it reads anywhere is part of the row, and nothing else.
SELECT cdi_install_destination_spec($${
    "$schema": "cdi-dest-1", "name": "sync-columns", "version": "1", "vars": {"who": "{{$.name}}", "unread": "{{$.note}}"},
    "auth": {"type": "header", "header": "X-Seen", "value": "{{$.seen}}", "when": {"exists": "$.email"}}, "actions": {"rows": {
        "ops": ["insert", "update"], "map": {"email": {"@path": "$.email"}, "offer": "$.50 off", "when": "now"},
        "require": ["email", {"@path": "vars.who"}], "batch": {"max_items": {"@case": {"in": {"@path": "$.age"}, "of": {"36": 1}, "else": 2}}},
        "request": {"method": "PATCH", "url": "https://syncs.example/{{$.id}}", "headers": {"X-Id": "{{$[\"id\"]}}"},
            "body": {"format": "json", "template": {"@items": "*"}}},
        "response": {"rules": [{"when": {"eq": ["status", 200]}, "class": "ok"}]},
        "extract": {"note": "$.note"}}}}$$) IS NOT NULL AS installed;
SELECT cdi_create_destination('sync_columns', 'sync-columns') > 0 AS created;
SELECT cdi_create_sync('columns', 'sync_columns', 'SELECT * FROM sync_people WHERE name IS NOT NULL AND email IS NOT NULL', 'id') > 0 AS created;
SELECT method, url, headers ->> 'X-Seen' AS seen, body FROM cdi_sync_preview('columns') ORDER BY url;
SELECT cdi_sync_run('columns') IS NOT NULL AS run;
SELECT DISTINCT (SELECT array_agg(k ORDER BY k) FROM jsonb_object_keys(payload) k) AS columns FROM sync_outbox WHERE name = 'columns';
-- A text that looks like a path is a text, and does not go with the time.
SELECT cdi_create_sync('texts', 'syncs', 'SELECT id, name FROM sync_people', 'id', mapping => '{"name": {"@path": "$.name"}, "offer": "$.50 off", "when": "now"}') > 0 AS created;
SELECT cdi_sync_run('texts') IS NOT NULL AS run;
SELECT sync_acknowledge('texts');
SELECT cdi_sync_run('texts') IS NOT NULL AS run;
SELECT changed, unchanged FROM cdi.sync_runs ORDER BY run_id DESC LIMIT 1;

-- What is not known where rows are read is refused, not empty.
SELECT cdi_create_sync('bad', 'syncs', 'SELECT id FROM sync_people', 'id', mapping => '{"a": "{{settings.url}}"}');
SELECT cdi_create_sync('bad', 'syncs', 'SELECT id FROM sync_people', 'id', mapping => '{"a": {"@first": [{"@path": "item.operation"}]}}');
BEGIN;
SELECT cdi_create_sync('known', 'syncs', 'SELECT id FROM sync_people', 'id', mapping => '{"key": {"@path": "item.primary_key"}}') > 0 AS created;
SELECT body::jsonb #> '{0,row}' AS row FROM cdi_sync_preview('known', 1);
ROLLBACK;

-- Rows in order by a key: what it reads is part of the row, and a preview has one row of each in a request.
SELECT cdi_create_sync('ordered', 'syncs', 'SELECT id, name, id % 2 AS half FROM sync_people', 'id', order_key => '{"@path": "$.half"}') > 0 AS created;
SELECT max(cardinality(primary_keys)) AS rows, count(*) = (SELECT max(n) FROM (SELECT count(*) AS n FROM sync_people GROUP BY id % 2) h) AS requests FROM cdi_sync_preview('ordered');
SELECT cdi_alter_sync('ordered', order_key => '{}');
SELECT count(*) AS requests FROM cdi_sync_preview('ordered');
SELECT cdi_create_sync('bad', 'syncs', 'SELECT id FROM sync_people', 'id', order_key => '"half"');
SELECT cdi_create_sync('bad', 'syncs', 'SELECT id FROM sync_people', 'id', order_key => '{"@magic": 1}');
SELECT cdi_create_sync('bad', 'syncs', 'SELECT id FROM sync_people', 'id', order_key => '{"@path": "$.half"}');
SELECT cdi_create_sync('bad', 'syncs', 'SELECT id FROM sync_people', 'id', mapping => '{"a": {"@path": "$.id"}}', order_key => '{"@path": "$.id"}');

-- What cannot be used says why, when it is declared and when it runs.
SELECT cdi_create_sync('bad', 'syncs', 'SELECT id FROM sync_people', 'id', mapping => '{"a": {"@path": "$.mail"}}');
SELECT cdi_create_sync('bad', 'syncs', 'SELECT id FROM sync_people', 'id', mapping => '{"a": {"@magic": 1}}');
SELECT cdi_create_sync('bad', 'syncs', 'SELECT id FROM sync_people', 'id', nulls => '{"a": "keep"}');
SELECT cdi_create_sync('fragile', 'syncs', 'SELECT id, note FROM sync_people', 'id', mapping => '{"n": "{{$.note}}"}') > 0 AS created;
-- A key that is null everywhere takes nothing away.
SELECT cdi_create_sync('keyless', 'syncs', 'SELECT nullif(id, seen) AS id, name FROM sync_people', 'id') > 0 AS created;
SELECT cdi_sync_run('keyless') > 0 AS ran;
UPDATE sync_people SET seen = id;
SELECT cdi_sync_run('keyless');
ALTER TABLE sync_people DROP COLUMN note;
SELECT cdi_sync_run('fragile');
SELECT cdi_sync_run('mapped') > 0 AS others_run;
-- Nobody but who may administer
CREATE ROLE cdi_test_no_syncs;
SET ROLE cdi_test_no_syncs;
SELECT cdi_sync_preview('preview');
SELECT cdi_sync_pause('preview');
RESET ROLE;
DROP ROLE cdi_test_no_syncs;
-- Rows that are as they were are not looked at one by one: sums of hashes by
-- bucket of primary keys tell where there is a difference.
-- SipHash-2-4-128 of the bytes 0 to 8 under the key 0 to 15: the vector of the
-- reference implementation, also: printf '\0\1\2\3\4\5\6\7\10' | openssl mac -macopt hexkey:... -macopt size:16 SIPHASH
SELECT cdi._row_hash('00010203-0405-0607-0809-0a0b0c0d0e0f', x'0807060504030201'::bigint) = '264499060ad9baabc47f8b02bb6d71ed' AS vector;
SELECT count(DISTINCT cdi._row_hash(k, a, b)) FROM (VALUES ('00010203-0405-0607-0809-0a0b0c0d0e0f'::uuid)) k (k),
  (VALUES ('a', 'b'), ('ab', ''), ('', 'ab'), (NULL, 'ab'), ('ab', NULL), ('b', 'a'), (NULL, NULL)) v (a, b);
CREATE TYPE sync_plan AS ENUM ('free', 'pro');
CREATE TABLE sync_many AS SELECT g AS id, 'user' || g AS name, g % 7 AS age, 'free'::sync_plan AS plan, NULL::text AS note FROM generate_series(1, 20000) g;
ALTER TABLE sync_many SET (parallel_workers = 2);
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SELECT cdi_create_sync('many', 'syncs', 'SELECT * FROM sync_many', 'id', mapping => '{"name": {"@pipe": [{"@path": "$.name"}, "lower"]}, "plan": {"@path": "$.plan"}, "age": {"@path": "$.age"}}') > 0 AS created;
CREATE FUNCTION sync_run_row(run bigint) RETURNS SETOF cdi.sync_runs LANGUAGE plpgsql AS 'BEGIN RETURN QUERY SELECT * FROM cdi.sync_runs WHERE run_id = run; END';
CREATE FUNCTION sync_counts(OUT queried bigint, OUT added bigint, OUT changed bigint, OUT removed bigint, OUT unchanged bigint, OUT invalid bigint, OUT queued bigint, OUT adds_up boolean) LANGUAGE sql AS $$
  SELECT queried, added, changed, removed, unchanged, invalid, queued, queried = added + changed + removed + unchanged + invalid FROM (SELECT cdi_sync_run('many') AS run_id) n, LATERAL sync_run_row(n.run_id) $$;
SELECT * FROM sync_counts();
SELECT * FROM sync_counts();
SELECT sync_acknowledge('many');
SELECT * FROM sync_counts();
-- two keys that swap, one that changes, one that goes, one that comes, one twice, one without key, one in an unused column
UPDATE sync_many SET name = 'user' || CASE id WHEN 10 THEN 11 ELSE 10 END, age = CASE id WHEN 10 THEN 11 % 7 ELSE 10 % 7 END WHERE id IN (10, 11);
UPDATE sync_many SET age = 99 WHERE id = 12;
DELETE FROM sync_many WHERE id = 13;
INSERT INTO sync_many VALUES (20001, 'new', 1, 'pro'), (14, 'user14', 0, 'free'), (NULL, 'nobody', 0, 'free');
UPDATE sync_many SET note = 'unused' WHERE id = 15;
SELECT * FROM sync_counts();
SELECT operation, primary_key, payload FROM (SELECT * FROM sync_outbox WHERE name = 'many' ORDER BY position DESC LIMIT 5) o ORDER BY operation, primary_key;
-- what is on its way makes no difference; nor does the next run once it arrived
SELECT * FROM sync_counts();
SELECT sync_acknowledge('many');
SELECT * FROM sync_counts();
-- a difference that the mapping takes away is seen once
CREATE TABLE sync_hashes AS SELECT r.primary_key, r.row_hash FROM cdi.sync_rows r JOIN cdi.syncs s USING (sync_id) WHERE s.name = 'many';
UPDATE sync_many SET name = upper(name) WHERE id = 16;
SELECT * FROM sync_counts();
SELECT r.primary_key FROM cdi.sync_rows r JOIN cdi.syncs s USING (sync_id) JOIN sync_hashes h ON h.primary_key = r.primary_key WHERE s.name = 'many' AND r.row_hash <> h.row_hash;
-- what the bytes of a row do not show
ALTER TYPE sync_plan RENAME VALUE 'pro' TO 'team';
SELECT * FROM sync_counts();
SELECT sync_acknowledge('many');
ALTER TABLE sync_many ALTER age TYPE text;
SELECT * FROM sync_counts();
SELECT sync_acknowledge('many');
SELECT cdi_alter_sync('many', mapping => '{"name": {"@path": "$.name"}}');
SELECT * FROM sync_counts();
SELECT sync_acknowledge('many');
-- a mapping with the time in it makes every row another
SELECT cdi_alter_sync('many', mapping => '{"at": "{{ now }}", "name": {"@path": "$.name"}}');
SELECT changed FROM sync_counts();
SELECT sync_acknowledge('many');
SELECT pg_sleep(0.01), changed FROM sync_counts();
-- a model with nothing in it
SELECT sync_acknowledge('many');
TRUNCATE sync_many;
SELECT removed, queried FROM sync_counts();
RESET parallel_setup_cost;
RESET parallel_tuple_cost;
RESET min_parallel_table_scan_size;
DROP FUNCTION sync_counts;
DROP FUNCTION sync_run_row;
DROP VIEW sync_outbox;
DROP FUNCTION sync_acknowledge;
DROP TABLE sync_many, sync_hashes;
DROP TABLE sync_people;
