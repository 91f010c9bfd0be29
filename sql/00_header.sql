-- cdi: customer data infrastructure inside PostgreSQL
\echo Use "CREATE EXTENSION cdi" to load this file. \quit

SET LOCAL search_path TO pg_catalog, pg_temp;
