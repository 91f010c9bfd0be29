-- cdi: customer data infrastructure inside PostgreSQL
\echo Use "CREATE EXTENSION cdi" to load this file. \quit

-- pg_catalog is searched first without being named; new objects go to the
-- extension's own schema.
SET LOCAL search_path TO @extschema@, pg_temp;
