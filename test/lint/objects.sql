-- Rules that every SQL object of cdi keeps.  Prints one row per violation.
-- Expects the extension with its storage, and the file public.txt beside it
-- as variable public_list: what PUBLIC may use, one "kind name" per line.
\set QUIET on
SET search_path = pg_catalog, pg_temp;
CREATE TEMP TABLE allowed (line text);
COPY allowed FROM STDIN;
:public_list
\.
CREATE TEMP TABLE objects AS
    SELECT 'function' AS kind, p.oid, 'pg_proc'::regclass AS classid, p.oid::regprocedure::text AS name
    FROM pg_proc p
    WHERE p.pronamespace IN ('cdi'::regnamespace, 'cdi_bi'::regnamespace)
       OR EXISTS (SELECT FROM pg_depend d JOIN pg_extension e ON d.refobjid = e.oid
                  WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid
                    AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname = 'cdi')
    UNION ALL
    SELECT CASE c.relkind WHEN 'v' THEN 'view' WHEN 'S' THEN 'sequence' WHEN 'm' THEN 'materialized view' ELSE 'table' END,
           c.oid, 'pg_class', format('%I.%I', n.nspname, c.relname)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname IN ('cdi', 'cdi_bi') AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
    UNION ALL
    SELECT 'schema', oid, 'pg_namespace', nspname FROM pg_namespace WHERE nspname IN ('cdi', 'cdi_bi')
    UNION ALL
    SELECT 'type', t.oid, 'pg_type', t.oid::regtype::text
    FROM pg_type t LEFT JOIN pg_class c ON c.oid = t.typrelid
    WHERE t.typnamespace IN ('cdi'::regnamespace, 'cdi_bi'::regnamespace) AND t.typelem = 0
      AND (t.typrelid = 0 OR c.relkind = 'c');

CREATE TEMP TABLE violations (kind text, name text, problem text);

-- Partitions say what their parent says; a sequence of an identity column,
-- what its table says.
INSERT INTO violations
SELECT o.kind, o.name, 'has no COMMENT'
FROM objects o LEFT JOIN pg_class c ON o.classid = 'pg_class'::regclass AND c.oid = o.oid
WHERE obj_description(o.oid, o.classid::text::name) IS NULL
  AND c.relispartition IS NOT TRUE
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = o.oid AND d.deptype IN ('i', 'a') AND c.relkind = 'S');

INSERT INTO violations
SELECT 'column', o.name || '.' || a.attname, 'has no COMMENT'
FROM objects o JOIN pg_attribute a ON a.attrelid = o.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE o.kind = 'view' AND o.name LIKE 'cdi\_bi.%' AND col_description(o.oid, a.attnum) IS NULL;

INSERT INTO violations
SELECT 'column', o.name || '.' || a.attname, 'has type ' || format_type(a.atttypid, a.atttypmod) || ', which BI tools do not all read'
FROM objects o JOIN pg_attribute a ON a.attrelid = o.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE o.kind = 'view' AND o.name LIKE 'cdi\_bi.%'
  AND a.atttypid NOT IN ('text'::regtype, 'boolean'::regtype, 'bigint'::regtype, 'numeric'::regtype, 'double precision'::regtype,
                         'date'::regtype, 'timestamptz'::regtype, 'uuid'::regtype);

INSERT INTO violations
SELECT kind, name, 'is not a plain view' FROM objects
WHERE name LIKE 'cdi\_bi.%' AND kind NOT IN ('view', 'function');

CREATE TEMP TABLE open_to_public AS
    SELECT kind, name FROM objects
    WHERE CASE kind
        WHEN 'function' THEN has_function_privilege('public', oid, 'EXECUTE')
        WHEN 'sequence' THEN has_sequence_privilege('public', oid, 'USAGE, SELECT, UPDATE')
        WHEN 'schema' THEN has_schema_privilege('public', oid, 'USAGE, CREATE')
        WHEN 'type' THEN false
        ELSE has_table_privilege('public', oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
            OR has_any_column_privilege('public', oid, 'SELECT, INSERT, UPDATE, REFERENCES')
    END;

INSERT INTO violations
SELECT kind, name, 'is open to PUBLIC and not listed in test/lint/public.txt' FROM open_to_public
WHERE kind || ' ' || name NOT IN (SELECT line FROM allowed);
INSERT INTO violations
SELECT 'public.txt', line, 'is listed and not open to PUBLIC' FROM allowed
WHERE line NOT IN (SELECT kind || ' ' || name FROM open_to_public);

-- A search_path of the caller's must not decide which function is meant.
INSERT INTO violations
SELECT 'function', o.name, 'has no SET search_path'
FROM objects o JOIN pg_proc p ON p.oid = o.oid JOIN pg_language l ON l.oid = p.prolang
WHERE o.kind = 'function' AND l.lanname NOT IN ('c', 'internal')
  AND NOT EXISTS (SELECT FROM unnest(p.proconfig) AS setting WHERE setting LIKE 'search\_path=%')
  AND p.prosqlbody IS NULL;

-- Data in a member table is lost by DROP EXTENSION and by dumps.
INSERT INTO violations
SELECT o.kind, o.name, 'is a member of the extension and not registered with pg_extension_config_dump'
FROM objects o JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = o.oid AND d.deptype = 'e'
JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'cdi'
WHERE o.kind = 'table' AND NOT o.oid = ANY (coalesce(e.extconfig, '{}'));

\pset format unaligned
\pset tuples_only on
\pset fieldsep ' '
SELECT kind, name, problem FROM violations ORDER BY 1, 2, 3;
