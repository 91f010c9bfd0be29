-- docs/functions.md: every public function, from its own COMMENT.
\pset format unaligned
\pset tuples_only on
\pset recordsep '\n\n'
\echo '# Functions'
\echo
\echo 'Made by `make docs` from the comments of the functions themselves; `\\df+ cdi_*` shows the same in psql.'
\echo
SELECT '## ' || p.proname || E'\n' || '`' || p.proname || '(' || regexp_replace(pg_get_function_arguments(p.oid), '::[a-z ]+(\[\])?', '', 'g') || ')'
       || CASE p.prokind WHEN 'p' THEN '`, a procedure' ELSE
           CASE p.prokind WHEN 'a' THEN '` aggregate returning `' ELSE '` returns `' END
           || CASE WHEN pg_get_function_result(p.oid) = 'record' THEN 'record (its OUT parameters)' ELSE pg_get_function_result(p.oid) END || '`' END
       || E'\n\n' || replace(obj_description(p.oid, 'pg_proc'), E'\n', E'\n\n')
FROM pg_proc p
JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
JOIN pg_extension e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass AND e.extname = 'cdi'
WHERE p.pronamespace = e.extnamespace AND p.proname ~ '^cdi_'
ORDER BY p.proname COLLATE "C", p.oid::regprocedure::text COLLATE "C";
