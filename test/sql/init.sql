-- Every other test in this folder runs in this database, after this file.
-- Workers stay away: what they do at commit, the tests do by calling it.
SET client_min_messages = warning;
CREATE EXTENSION cdi;
BEGIN;
SELECT cdi_init();
ALTER DATABASE regression SET cdi.enabled = off;
COMMIT;
-- A second run changes nothing.
BEGIN;
SELECT cdi_init();
ALTER DATABASE regression SET cdi.enabled = off;
COMMIT;
SELECT count(*) FROM cdi.storage;
SELECT name, enabled, write_key_hash IS NULL AS no_write_key FROM cdi.sources;
