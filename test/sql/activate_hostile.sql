-- What a vendor, or whoever writes a specification, may get wrong on purpose.
CREATE FUNCTION pg_temp.spec(more jsonb, VARIADIC tests jsonb[] DEFAULT '{}') RETURNS jsonb LANGUAGE sql AS $$
  SELECT jsonb_build_object('$schema', 'cdi-dest-1', 'name', 'hostile', 'version', '1', 'tests', to_jsonb(tests),
    'settings', '{"type": "object", "properties": {"key": {"type": "string", "secret": true}, "keys": {"type": "object", "secret": true}, "other": {"type": "string"}}}'::jsonb,
    'actions', jsonb_build_object('a', '{"ops": ["insert"], "map": {"@path": "$"}, "batch": {"max_items": 10},
       "request": {"method": "POST", "url": "https://x.example/a", "body": {"format": "json", "template": {"@items": "*"}}}}'::jsonb || (more - 'auth')))
    || CASE WHEN more ? 'auth' THEN jsonb_build_object('auth', more -> 'auth') ELSE '{}' END
$$;

-- An index beyond any row names none: not the one it would be in 32 bits.
SELECT cdi_check_destination_spec(pg_temp.spec('{"response": {"rules": [{"class": "ok", "rows": {"each": "$.errors", "index": "@.i"}}]}}',
  '{"rows": [1, 2], "answer": {"status": 200, "body": {"errors": [{"i": 4294967296}, {"i": 4294967297}, {"i": -1}, {"i": "1e30"}, {"i": "99999999999999999999"}]}}, "expect": {"class": "rejected", "split": true, "rows": []}}'));
-- A table whose names are repeated in every line grows beyond measure: it is not read, and nothing counts as accepted.
SELECT cdi_check_destination_spec(pg_temp.spec('{"response": {"format": "csv", "rules": [{"class": "ok", "rows": {"each": "$", "match": {"value": "@.id", "to": "item.primary_key"}}}]}}',
  jsonb_build_object('rows', '[1]'::jsonb, 'answer', jsonb_build_object('status', 200, 'body', repeat('h', 20000) || E'\n' || repeat(E'1\n', 10000)),
    'expect', '{"class": "retryable", "message": "the answer cannot be read: the table is too large"}'::jsonb)));
-- JSON that is too deep, and numbers that are none of ours, are no JSON.
SELECT cdi_check_destination_spec(pg_temp.spec('{"response": {"rules": [{"when": {"exists": "$"}, "class": "rejected"}, {"class": "ok"}]}}',
  jsonb_build_object('answer', jsonb_build_object('status', 200, 'body', repeat('[', 100000)), 'expect', '{"class": "ok"}'::jsonb),
  jsonb_build_object('answer', jsonb_build_object('status', 200, 'body', '[1e99999999]'), 'expect', '{"class": "ok"}'::jsonb),
  jsonb_build_object('answer', jsonb_build_object('status', 200, 'body', '{"a": "\u0000"}'), 'expect', '{"class": "ok"}'::jsonb)));
-- A secret or a token that the vendor echoes is not shown, however it is written there.
SELECT cdi_check_destination_spec(pg_temp.spec('{"response": {"rules": [{"class": "rejected", "message": "text"}]}}',
  jsonb_build_object('secrets', '{"key": "s3cr\"t/+&1"}'::jsonb, 'token', 'access-token-1',
    'answer', jsonb_build_object('status', 200, 'body', 'plain s3cr"t/+&1, JSON s3cr\"t/+&1, address s3cr%22t%2F%2B%261, token access-token-1'),
    'expect', '{"message": "plain ***, JSON ***, address ***, token ***"}'::jsonb)));
-- Secrets that are no text
SELECT cdi_check_destination_spec(pg_temp.spec('{"response": {"rules": [{"class": "rejected", "message": "text"}]}}',
  '{"secrets": {"key": 5, "keys": {"a": 5, "b": null}}, "answer": {"status": 200, "body": "x"}, "expect": {"message": "x"}}'));
-- A test that expects the body of a request that has none
SELECT cdi_check_destination_spec(pg_temp.spec('{"request": {"method": "GET", "url": "https://x.example/"}}',
  '{"rows": [{"operation": "insert", "primary_key": "1", "row": {}}], "expect": {"body": {}}}'));
-- Claims that are not there
SELECT cdi_check_destination_spec(pg_temp.spec('{"auth": {"type": "jwt", "algorithm": "HS256", "key": "k", "expires": "1h", "claims": {"@path": "settings.other"}}}',
  '{"rows": [{"operation": "insert", "primary_key": "1", "row": {}}], "expect": {}}'));
-- Paths in comparisons are checked as all others are.
SELECT cdi_check_destination_spec(pg_temp.spec('{"map": {"@if": {"condition": {"eq": ["secret.key", "x"]}, "then": 1}}}'));
SELECT cdi_check_destination_spec(pg_temp.spec('{"map": {"@if": {"condition": {"in": ["$.a[", [1]]}, "then": 1}}}'));
SELECT cdi_check_destination_spec(pg_temp.spec('{"map": {"@if": {"condition": {"gt": ["$.a[-1]", 1]}, "then": 1}}}'));
SELECT cdi_check_destination_spec(pg_temp.spec('{"map": {"a": {"@if": {"condition": {"eq": ["$.type", "item"]}, "then": 1}}}}',
  '{"rows": [{"operation": "insert", "primary_key": "1", "row": {"type": "item"}}], "expect": {"body": [{"a": 1}]}}'));
SELECT cdi_check_destination_spec(pg_temp.spec('{"map": {"@fn": ["uuid5", {"@path": "$.a"}, "no uuid"]}}'));

-- AWS Signature 4: parameters and headers are sorted by their names ("-" and
-- "." come before "=" and ":"). The signature is that of botocore 1.29.0.
SELECT cdi_check_destination_spec(pg_temp.spec('{"auth": {"type": "sigv4", "service": "service", "region": "us-east-1", "access_key": "AKIDEXAMPLE", "secret_key": "{{secret.key}}"},
    "request": {"method": "GET", "url": "https://example.amazonaws.com/?a.c=3&a=1&a-b=2", "headers": {"X-Amz-Meta": "v", "X-Amz-Meta-A": "w"}}}',
  '{"now": "2015-08-30T12:36:00Z", "secrets": {"key": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"}, "rows": [{"operation": "insert", "primary_key": "1", "row": {}}],
    "expect": {"headers": {"Authorization": "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders=host;x-amz-date;x-amz-meta;x-amz-meta-a, Signature=c29be1b7eb8e92250420d2bbbae1190b519ad452a0252bf2ccdef147ce2ec66b"}}}'));

-- Names of columns may hold blanks.
SELECT cdi_create_destination('hostile', settings => '{"url": "https://x.example/"}') > 0 AS created;
SELECT cdi_create_sync('blanks', 'hostile', 'SELECT 1 AS id, ''Ada'' AS "Full Name"', 'id', mapping => '{"name": {"@path": "$.Full Name"}}') > 0 AS created;
-- What a preview shows of a compressed body is text, and no run waits for the transaction that looks.
SELECT cdi_install_destination_spec(pg_temp.spec('{"request": {"method": "POST", "url": "https://x.example/", "body": {"format": "json", "gzip": true, "template": {"@items": "*"}}}}'));
SELECT cdi_create_destination('compressed', 'hostile') > 0 AS created;
SELECT cdi_create_sync('compressed', 'compressed', 'SELECT 1 AS id', 'id') > 0 AS created;
BEGIN;
SELECT headers ->> 'Content-Encoding' AS encoding, body FROM cdi_sync_preview('compressed');
SELECT count(*) AS locks FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 206;
COMMIT;
-- Somebody's schema that is called as that of pg_cron is not pg_cron.
CREATE SCHEMA cron;
CREATE TABLE cron.job (jobid bigint, jobname text);
CREATE FUNCTION cron.schedule(text, text, text) RETURNS bigint LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'this ran as %', current_user; END$$;
SELECT cdi_sync_schedule('compressed', cron => '* * * * *');
DROP FUNCTION cron.schedule;
DROP TABLE cron.job;
DROP SCHEMA cron;
SELECT cdi_drop_sync('compressed'), cdi_drop_sync('blanks'), cdi_drop_destination('compressed'), cdi_drop_destination('hostile');
