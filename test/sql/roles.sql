-- Three roles: one that may only track, one that may only read, one that administers.
SET client_min_messages = warning;
CREATE ROLE cdi_test_tracker;
CREATE ROLE cdi_test_reader;
CREATE ROLE cdi_test_admin;
SELECT cdi_grant_reader('cdi_test_reader');
SELECT cdi_grant_admin('cdi_test_admin');

SET ROLE cdi_test_tracker;
SELECT cdi_track('u1', 'Before the grant');
RESET ROLE;

SET ROLE cdi_test_admin;
SELECT cdi_create_source('shop') IS NOT NULL AS created;
SELECT cdi_create_source('shop');
SELECT cdi_grant_source('shop', 'cdi_test_tracker');
SELECT cdi_grant_source('no such source', 'cdi_test_tracker');
RESET ROLE;

SET ROLE cdi_test_tracker;
SELECT cdi_track('u1', 'Granted', source => 'shop') IS NOT NULL AS tracked;
SELECT * FROM cdi_ingest('{"type": "track", "event": "x", "userId": "u1"}', 'shop');
SELECT cdi_track('u1', 'Other source');
SELECT count(*) FROM cdi.events;
SELECT cdi_create_source('mine');
SELECT cdi_replay();
SELECT write_key_hash FROM cdi.sources;
SELECT cdi._batch_events();
RESET ROLE;

SET ROLE cdi_test_reader;
SELECT count(*) > 0 AS reads FROM cdi.events;
SELECT name FROM cdi.sources WHERE name = 'shop';
SELECT cdi_watermark() >= 0 AS watermark;
SELECT cdi_track('u1', 'Not a writer', source => 'shop');
DELETE FROM cdi.events;
SELECT write_key_hash FROM cdi.sources;
SELECT key FROM cdi.identity_key;
RESET ROLE;

SET ROLE cdi_test_admin;
SELECT cdi_rotate_source('shop') ~ '^cdi_' AS rotated;
SELECT cdi_disable_source('shop');
SELECT key FROM cdi.identity_key;
RESET ROLE;
SET ROLE cdi_test_tracker;
SELECT cdi_track('u1', 'Disabled', source => 'shop');
RESET ROLE;
SET ROLE cdi_test_admin;
SELECT cdi_enable_source('shop');
RESET ROLE;
SET ROLE cdi_test_tracker;
SELECT cdi_track('u1', 'Enabled again', source => 'shop') IS NOT NULL AS tracked;
RESET ROLE;
SET ROLE cdi_test_admin;
SELECT cdi_revoke_source('shop', 'cdi_test_tracker');
RESET ROLE;
SET ROLE cdi_test_tracker;
SELECT cdi_track('u1', 'Revoked', source => 'shop');
RESET ROLE;

-- Any name of a role; a name of a source that could not be found again.
CREATE ROLE "Cdi Test";
SELECT cdi_grant_source('shop', 'Cdi Test');
SELECT cdi_revoke_source('shop', 'Cdi Test');
SELECT cdi_grant_source('shop', 'Cdi Test');
DROP OWNED BY "Cdi Test";
DROP ROLE "Cdi Test";
SELECT cdi_revoke_source('shop', 'Cdi Test');
SELECT cdi_create_source(repeat('n', 128));

-- A caller's search_path and temporary objects mean nothing to the pipeline.
SELECT cdi_grant_source('shop', 'cdi_test_tracker');
GRANT TEMPORARY ON DATABASE regression TO cdi_test_tracker;
SET ROLE cdi_test_tracker;
CREATE TEMPORARY TABLE events (LIKE pg_class);
CREATE FUNCTION pg_temp.date_trunc(text, timestamptz, text) RETURNS timestamptz LANGUAGE sql AS 'SELECT now() - interval ''99 years''';
SET search_path = pg_temp, public;
SELECT public.cdi_track('u1', 'Pinned', source => 'shop') IS NOT NULL AS tracked;
RESET search_path;
RESET ROLE;
SELECT min(hour) > now() - interval '2 days' AS own_functions_only FROM cdi.pipeline_deltas;
DROP OWNED BY cdi_test_tracker, cdi_test_reader, cdi_test_admin;
DROP ROLE cdi_test_tracker, cdi_test_reader, cdi_test_admin;
