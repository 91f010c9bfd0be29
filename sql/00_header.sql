-- cdi: customer data infrastructure inside PostgreSQL
\echo Use "CREATE EXTENSION cdi" to load this file. \quit

-- See qualify.sed.
SET LOCAL search_path TO pg_catalog, pg_temp;
