-- Bulk import (src/ingest/import*.c).

-- A member, for it holds nothing; what was imported is in storage.
CREATE OR REPLACE VIEW cdi.import AS SELECT NULL::text AS line WHERE false;
COMMENT ON VIEW cdi.import IS 'Takes lines of JSON from COPY or INSERT: each is one call, an array of them or {"batch": [...]}. COPY cdi.import FROM ... WITH (FORMAT csv, QUOTE E''\x01'', DELIMITER E''\x02''). cdi_import_open() says what import they belong to.';

CREATE OR REPLACE FUNCTION cdi._import_lines()
RETURNS trigger
LANGUAGE C
AS 'MODULE_PATHNAME', 'cdi_import_lines';
COMMENT ON FUNCTION cdi._import_lines() IS 'Internal: triggers of cdi.import.';

CREATE OR REPLACE TRIGGER import_begin BEFORE INSERT ON cdi.import
    FOR EACH STATEMENT EXECUTE FUNCTION cdi._import_lines();
CREATE OR REPLACE TRIGGER import_line INSTEAD OF INSERT ON cdi.import
    FOR EACH ROW EXECUTE FUNCTION cdi._import_lines();
CREATE OR REPLACE TRIGGER import_end AFTER INSERT ON cdi.import
    FOR EACH STATEMENT EXECUTE FUNCTION cdi._import_lines();

CREATE OR REPLACE FUNCTION cdi_import_open(name text, source text DEFAULT 'sql', history boolean DEFAULT false, first_line bigint DEFAULT 1)
RETURNS bigint
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_import_open(text, text, boolean, bigint) IS
'Says for this session what the lines belong to that COPY or INSERT puts into cdi.import from now on, the next of which is line first_line. Returns how many lines of that import are done; these are skipped when they come again. With history, receivedAt (or timestamp) of the events says when they were received.';

CREATE OR REPLACE PROCEDURE cdi_import(file text, name text DEFAULT NULL, source text DEFAULT 'sql', history boolean DEFAULT false, batch_lines integer DEFAULT 10000,
    INOUT lines bigint DEFAULT NULL, INOUT stored bigint DEFAULT NULL, INOUT duplicate bigint DEFAULT NULL, INOUT failed bigint DEFAULT NULL, INOUT withheld bigint DEFAULT NULL)
LANGUAGE C
AS 'MODULE_PATHNAME';
COMMENT ON PROCEDURE cdi_import(text, text, text, boolean, integer, bigint, bigint, bigint, bigint, bigint) IS
'Imports a file of the server, plain or gzip, line by line, and commits every batch_lines lines. The same CALL goes on where an earlier one of that name (by default the file''s path) ended or was stopped. Returns the totals of the import. For superusers and pg_read_server_files.';

CREATE OR REPLACE FUNCTION cdi._payload_text(payload bytea)
RETURNS text
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_payload_text';
COMMENT ON FUNCTION cdi._payload_text(bytea) IS 'Internal: bytes as text, null where they are none.';
