-- Bulk import: lines through COPY, INSERT and from a file; what failed on which line; resuming.
SET client_min_messages = warning;
SET TimeZone = 'UTC';
SELECT cdi_create_source('import') IS NOT NULL AS created;
CREATE VIEW import_counts AS SELECT * FROM cdi.pipeline_counts WHERE source = 'import';

-- Line 1 begins with a byte order mark; line 2 is blank; 4 and 5 have several calls.
SELECT cdi_import_open('first', 'import');
COPY cdi.import FROM STDIN WITH (FORMAT csv, QUOTE E'\x01', DELIMITER E'\x02');
﻿{"type": "track", "userId": "u1", "event": "a \"quoted\" \\ caf\u00e9, \t", "messageId": "1"}

{"type": "track", "event": "of nobody", "messageId": "3"}
[{"type": "page", "userId": "u1", "messageId": "4a"}, {"type": "walk", "userId": "u1", "messageId": "4b"}]
{"batch": [{"type": "page", "anonymousId": "a1", "messageId": "5"}], "context": {"locale": "de"}}
{"type": "track", "userId":
{"type": "track", "userId": "u1", "event": "again", "messageId": "1"}
42
\.
SELECT event, user_id, anonymous_id, message_id, context FROM cdi.events WHERE source_id = (SELECT source_id FROM cdi.sources WHERE name = 'import') ORDER BY position;
SELECT import, line, stage, sqlstate, message, payload FROM cdi.import_failures WHERE import = 'first' ORDER BY line;
SELECT name, history, lines, stored, duplicate, failed, withheld, is_file, finished_at FROM cdi.imports WHERE name = 'first';
TABLE import_counts;

-- The same stream again, with one line more: only that is new.
SELECT cdi_import_open('first', 'import') AS lines_done;
COPY cdi.import FROM STDIN WITH (FORMAT csv, QUOTE E'\x01', DELIMITER E'\x02');
{"type": "track", "userId": "other", "event": "skipped"}
-
-
-
-
-
-
-
{"type": "track", "userId": "u1", "event": "ninth"}
\.
-- A stream in pieces: the next statement of the session goes on behind.
INSERT INTO cdi.import VALUES ('{"type": "track", "userId": "u1", "event": "tenth"}'), ('bad');
SELECT lines, stored, duplicate, failed FROM cdi.imports WHERE name = 'first';
SELECT line, payload FROM cdi.import_failures WHERE line > 8;
SELECT event FROM cdi.events WHERE event IN ('skipped', 'ninth', 'tenth') ORDER BY position;

-- A piece says where it begins, and must not leave lines out.
SELECT cdi_import_open('first', 'import', first_line => 11);
INSERT INTO cdi.import VALUES ('skipped'), ('{"type": "track", "userId": "u1", "event": "twelfth"}');
SELECT cdi_import_open('first', 'import', first_line => 14);
INSERT INTO cdi.import VALUES ('{"type": "track", "userId": "u1", "event": "fourteenth"}');
\echo :SQLSTATE
SELECT lines, stored, failed FROM cdi.imports WHERE name = 'first';

-- What is rolled back was not sent.
SELECT cdi_import_open('rollback', 'import');
BEGIN;
INSERT INTO cdi.import VALUES ('{"type": "track", "userId": "u1", "event": "r1"}');
SAVEPOINT s;
INSERT INTO cdi.import VALUES ('{"type": "track", "userId": "u1", "event": "r2"}');
ROLLBACK TO s;
INSERT INTO cdi.import VALUES ('{"type": "track", "userId": "u1", "event": "r2 again"}');
RELEASE s;
COMMIT;
BEGIN;
INSERT INTO cdi.import VALUES ('{"type": "track", "userId": "u1", "event": "r3"}');
ROLLBACK;
INSERT INTO cdi.import SELECT '{"type": "track", "userId": "u1", "event": "r3"}' WHERE 1 / (SELECT 0) > 0;
INSERT INTO cdi.import VALUES ('{"type": "track", "userId": "u1", "event": "r3 again"}');
SELECT lines, stored FROM cdi.imports WHERE name = 'rollback';
SELECT event FROM cdi.events WHERE event LIKE 'r_%' AND source_id = (SELECT source_id FROM cdi.sources WHERE name = 'import') ORDER BY position;

-- A function that inserts, called by a statement that inserts.
CREATE FUNCTION inserts(n integer) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO cdi.import VALUES (format('{"type": "track", "userId": "u1", "event": "inner %s"}', n));
    RETURN format('{"type": "track", "userId": "u1", "event": "outer %s"}', n);
END $$;
\connect
SET TimeZone = 'UTC';
SET client_min_messages = warning;
INSERT INTO cdi.import SELECT inserts(n) FROM generate_series(1, 3) n;
SELECT event FROM cdi.events WHERE event ~ '^(inner|outer)' ORDER BY event;
SELECT name IS NULL AS unnamed, lines, stored FROM cdi.imports ORDER BY import_id DESC LIMIT 4;

-- Without options lines are taken as they are, too; a column list or another
-- format goes the server's own way, and the text format would change them.
COPY cdi.import FROM STDIN;
{"type": "track", "userId": "u1", "event": "a \"plain\" form \\"}
\.
COPY cdi.import (line) FROM STDIN WITH (FORMAT csv, QUOTE E'\x01', DELIMITER E'\x02');
{"type": "track", "userId": "u1", "event": "a \"column\" list \\"}

bad
\.
COPY cdi.import (line) FROM STDIN;
{"type": "track", "userId": "u1", "event": "text"}
\.
COPY cdi.import FROM STDIN WITH (FORMAT text);
{"type": "track", "userId": "u1", "event": "text"}
\.
SELECT event FROM cdi.events WHERE event ~ '^a "|text' ORDER BY event;
SELECT lines, stored, failed FROM cdi.imports ORDER BY import_id DESC LIMIT 2;
BEGIN TRANSACTION READ ONLY;
COPY cdi.import FROM '/dev/null';
ROLLBACK;
COPY cdi.import FROM STDIN WITH (FORMAT csv);
"{""type"": ""track"", ""userId"": ""u1"", ""event"": ""a csv file""}"
\.
SELECT event FROM cdi.events WHERE event = 'a csv file';
SELECT * FROM cdi.import;
DELETE FROM cdi.import;

-- An import is one thing: source, history and kind stay.
SELECT cdi_import_open('first', 'sql');
\echo :SQLSTATE
SELECT cdi_import_open('first', 'import', history => true);
CALL cdi_import('/dev/null', 'first', 'import');
SELECT cdi_import_open('x', 'no such source');
SELECT cdi_import_open('');
SELECT cdi_import_open(NULL);
SELECT cdi_import_open('x', first_line => 0);

-- History: the events' own time of receipt, also after a replay.
SELECT cdi_import_open('history', 'import', history => true);
COPY cdi.import FROM STDIN WITH (FORMAT csv, QUOTE E'\x01', DELIMITER E'\x02');
{"type": "track", "userId": "h1", "event": "h", "timestamp": "2015-03-04T05:06:07Z", "messageId": "h1"}
{"type": "track", "userId": "h1", "event": "h", "timestamp": "2015-03-04T05:06:07Z", "receivedAt": "2015-04-01T00:00:00Z", "messageId": "h2"}
{"type": "track", "userId": "h1", "event": "h", "timestamp": "2015-05-04T05:06:07Z", "messageId": "h3"
\.
UPDATE cdi.failed_events SET payload = payload || '}' WHERE failed_id = (SELECT failed_id FROM cdi.import_failures WHERE import = 'history');
SELECT * FROM cdi_replay(source => 'import');
SELECT message_id, received_at, tableoid::regclass FROM cdi.events WHERE event = 'h' ORDER BY message_id;
SELECT import, line, attempts FROM cdi.import_failures ORDER BY import, line;

-- A file of the server: blank lines, line ends of both kinds, bytes that are no
-- text, a last line without an end.
SELECT current_setting('data_directory') || '/import.ndjson' AS file \gset
COPY (SELECT 1) TO PROGRAM $$cat > /dev/null; printf '\357\273\277{"type": "track", "userId": "f1", "event": "f1"}\r\n\n  \t\n{"type": "track", "userId": "f1", "event": "f\377"}\r\n{"type": "track", "userId": "f1", "event": "f5"}' > import.ndjson$$;
CALL cdi_import(:'file', 'file', 'import');
SELECT i.line, i.sqlstate, i.payload, encode(f.payload, 'escape') AS bytes FROM cdi.import_failures i JOIN cdi.failed_events f USING (failed_id) WHERE import = 'file';
SELECT lines, bytes, file_offset, is_file, finished_at IS NOT NULL AS finished FROM cdi.imports WHERE name = 'file';
-- More of it goes on; something else does not.
COPY (SELECT 1) TO PROGRAM $$cat > /dev/null; printf '\n{"type": "track", "userId": "f1", "event": "f6"}\n' >> import.ndjson$$;
CALL cdi_import(:'file', 'file', 'import');
CALL cdi_import(:'file', 'file', 'import', batch_lines => 1);
COPY (SELECT 1) TO PROGRAM $$cat > /dev/null; sed -i 's/f5/f7/' import.ndjson$$;
-- the path is the machine's own
\set VERBOSITY sqlstate
CALL cdi_import(:'file', 'file', 'import');
COPY (SELECT 1) TO PROGRAM $$cat > /dev/null; printf '{}' > import.ndjson$$;
CALL cdi_import(:'file', 'file', 'import');
\set VERBOSITY default

-- A line that is too long costs only itself.
SET cdi.ingest_max_event = '1kB';
SET cdi.collector_max_body = '2kB';
COPY (SELECT 1) TO PROGRAM $$cat > /dev/null; for pad in 10 1500 10 900000 10; do printf '{"type": "track", "userId": "l", "event": "long", "p": "%s"}\n' "$(head -c $pad /dev/zero | tr '\0' x)"; done > import.ndjson$$;
CALL cdi_import(:'file', 'long', 'import', batch_lines => 2);
SELECT line, sqlstate, message, detail, length(payload) FROM cdi.import_failures WHERE import = 'long' ORDER BY line;
RESET cdi.ingest_max_event;
RESET cdi.collector_max_body;

-- gzip, in two members; a damaged one gives what lies before the damage.
COPY (SELECT 1) TO PROGRAM $$cat > /dev/null; for i in 1 2; do for n in 1 2 3; do echo '{"type": "track", "userId": "z", "event": "z'$i$n'"}'; done | gzip -n; done > import.ndjson$$;
CALL cdi_import(:'file', 'gzip', 'import', batch_lines => 2);
SELECT string_agg(event, ' ' ORDER BY position) FROM cdi.events WHERE event LIKE 'z__';
COPY (SELECT 1) TO PROGRAM $$cat > /dev/null; for n in $(seq 4000); do echo '{"type": "track", "userId": "z", "event": "y'$n'", "messageId": "y'$n'"}'; done | gzip -n > whole.gz; head -c 8000 whole.gz > import.ndjson$$;
\set VERBOSITY terse
CALL cdi_import('import.ndjson', 'damaged', 'import');
\echo :SQLSTATE
\set VERBOSITY default
SELECT lines BETWEEN 100 AND 3999 AND stored = lines AND finished_at IS NULL AS lines_before_the_damage FROM cdi.imports WHERE name = 'damaged';
CALL cdi_import('whole.gz', 'damaged', 'import');
SELECT file FROM cdi.imports WHERE name = 'damaged';

-- What the procedure refuses
BEGIN;
CALL cdi_import(:'file', 'block', 'import');
ROLLBACK;
CALL cdi_import('no such file', 'none', 'import');
CALL cdi_import('base', 'none', 'import');
CALL cdi_import('PG_VERSION', 'none', 'import', batch_lines => 0);
CALL cdi_import(NULL);
SELECT name FROM cdi.imports WHERE name IN ('block', 'none');

-- Who may import
CREATE ROLE cdi_test_import;
GRANT USAGE ON SCHEMA cdi TO cdi_test_import;
SET ROLE cdi_test_import;
INSERT INTO cdi.import VALUES ('{"type": "track", "userId": "u1", "event": "no privilege"}');
RESET ROLE;
SELECT cdi_grant_source('import', 'cdi_test_import');
SET ROLE cdi_test_import;
SELECT cdi_import_open('other source', 'sql');
SELECT cdi_import_open('granted', 'import');
INSERT INTO cdi.import VALUES ('{"type": "track", "userId": "u1", "event": "granted"}');
SELECT * FROM cdi.imports;
CALL cdi_import('/etc/passwd', 'none', 'import');
RESET ROLE;
GRANT EXECUTE ON PROCEDURE cdi_import TO cdi_test_import;
SET ROLE cdi_test_import;
CALL cdi_import('/etc/passwd', 'none', 'import');
RESET ROLE;
SELECT cdi_revoke_source('import', 'cdi_test_import');
SET ROLE cdi_test_import;
INSERT INTO cdi.import VALUES ('{"type": "track", "userId": "u1", "event": "revoked"}');
RESET ROLE;
DROP OWNED BY cdi_test_import;
DROP ROLE cdi_test_import;

-- Every event is accounted for, by the source and by its imports.
SELECT received = stored + duplicate + failed + withheld AS adds_up, received - (SELECT count(*) FROM cdi.events e JOIN cdi.sources s USING (source_id) WHERE s.name = 'import')
    - (SELECT count(*) FROM cdi.failed_events f JOIN cdi.sources s USING (source_id) WHERE s.name = 'import') AS duplicates FROM import_counts;
DROP VIEW import_counts;
DROP FUNCTION inserts(integer);
