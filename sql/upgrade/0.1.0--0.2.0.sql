-- 0.1.0 to 0.2.0: what CREATE OR REPLACE in the files from 20_ on cannot do.

-- Views over the data are made anew by cdi_init().
DROP VIEW IF EXISTS cdi.pipeline_counts;

-- Columns changed.
DROP FUNCTION cdi._batch_events();
DROP FUNCTION cdi._batch_links();

-- A trigger now does what it was called for.
DROP FUNCTION cdi._sources_changed();


-- They stay as they are, with whatever was changed in them.
UPDATE cdi.identifier_types SET builtin = false;
