{#
  Runs before every build: says what is missing instead of letting the first
  model fail.  Returns a statement that does nothing.
#}
{% macro assert_installed() %}
  {% if execute %}
    {% if target.type != 'postgres' %}
      {{ exceptions.raise_compiler_error("package cdi works where the extension cdi is installed: in PostgreSQL, with dbt-postgres; this target is of type " ~ target.type) }}
    {% endif %}
    {% set schema = var('cdi_schema', 'cdi') %}
    {% set found = run_query("select e.extversion, n.nspname, to_regclass('" ~ schema ~ ".events') is not null, to_regclass('" ~ schema ~ ".sessions') is not null, current_database()
                              from (select 1) one left join pg_catalog.pg_extension e on e.extname = 'cdi' left join pg_catalog.pg_namespace n on n.oid = e.extnamespace").rows[0] %}
    {% if found[0] is none %}
      {{ exceptions.raise_compiler_error("extension cdi is not installed in database " ~ found[4] ~ ": run CREATE EXTENSION cdi; SELECT cdi_init();") }}
    {% elif found[1] != var('cdi_functions_schema', 'public') %}
      {{ exceptions.raise_compiler_error("the functions of extension cdi are in schema " ~ found[1] ~ ": set the variable cdi_functions_schema to it") }}
    {% elif not found[2] %}
      {{ exceptions.raise_compiler_error("extension cdi has no storage in database " ~ found[4] ~ ": run SELECT cdi_init();") }}
    {% elif not found[3] %}
      {{ exceptions.raise_compiler_error("extension cdi " ~ found[0] ~ " has no sessions yet: run ALTER EXTENSION cdi UPDATE; SELECT cdi_init();") }}
    {% endif %}
  {% endif %}
  select 1
{% endmacro %}
