-- Before cdi_init() every door says what to do; DROP EXTENSION refuses while data exists.
SET client_min_messages = warning;
CREATE DATABASE cdi_uninitialised ENCODING 'UTF8' TEMPLATE template0;
\c cdi_uninitialised
SET client_min_messages = warning;
CREATE EXTENSION cdi;
SELECT cdi_track('u1', 'Too early');
\echo :SQLSTATE
SELECT cdi_ingest('[]');
\echo :SQLSTATE
SELECT cdi_watermark();
\echo :SQLSTATE
SELECT cdi_resolve();
\echo :SQLSTATE
BEGIN;
SELECT cdi_init();
ALTER DATABASE cdi_uninitialised SET cdi.enabled = off;
COMMIT;
SELECT cdi_track('u1', 'In time') IS NOT NULL AS tracked;
\set VERBOSITY terse
DROP EXTENSION cdi;
SELECT cdi_drop_data();
\set VERBOSITY default
SELECT cdi_drop_data('cdi_uninitialised');
DROP EXTENSION cdi;
SELECT count(*) FROM pg_namespace WHERE nspname IN ('cdi', 'cdi_bi');
\c regression
DROP DATABASE cdi_uninitialised;
