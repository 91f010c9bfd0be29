# The script runs with a search_path of pg_catalog alone, so that nothing that
# someone left in the extension's schema is called by it.  What it makes there
# therefore needs the schema's name, which the files spare their readers.
/^\(CREATE\|COMMENT ON\|ALTER\|DROP\) .*\(FUNCTION\|PROCEDURE\|AGGREGATE\) cdi_/s/\(FUNCTION\|PROCEDURE\|AGGREGATE\) cdi_/\1 @extschema@.cdi_/
/^\(REVOKE\|GRANT\) /{
	:statement
	/;/!{
		N
		b statement
	}
	s/\([ ,	\n]\)cdi_/\1@extschema@.cdi_/g
}
