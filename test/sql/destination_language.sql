-- What a destination's specification can say, each with a test that the
-- specification itself carries: cdi_check_destination_spec() runs them.
-- Expected signatures are those of published examples.
CREATE FUNCTION pg_temp.spec(more jsonb) RETURNS jsonb LANGUAGE sql AS $$
  SELECT jsonb_build_object('$schema', 'cdi-dest-1', 'name', 'language', 'version', '1',
    'settings', '{"type": "object", "properties": {"key": {"type": "string", "secret": true}, "other": {"type": "string", "secret": true}}}'::jsonb) || more
$$;
CREATE FUNCTION pg_temp.action(more jsonb) RETURNS jsonb LANGUAGE sql AS $$
  SELECT jsonb_build_object('actions', jsonb_build_object('a', '{"ops": ["insert", "update", "delete"], "map": {"@path": "$"}, "batch": {"max_items": 10},
    "request": {"method": "POST", "url": "https://x.example/a", "body": {"format": "json", "template": {"@items": "*"}}}}'::jsonb || more))
$$;
CREATE FUNCTION pg_temp.rows(VARIADIC objects jsonb[]) RETURNS jsonb LANGUAGE sql AS $$
  SELECT jsonb_agg(jsonb_build_object('operation', 'insert', 'primary_key', n::text, 'row', o)) FROM unnest(objects) WITH ORDINALITY u(o, n)
$$;
CREATE FUNCTION pg_temp.test(VARIADIC tests jsonb[]) RETURNS jsonb LANGUAGE sql AS $$ SELECT jsonb_build_object('tests', to_jsonb(tests)) $$;

-- AWS Signature 4: "get-vanilla" and "get-vanilla-query-order-key-case" of AWS's test suite
CREATE FUNCTION pg_temp.aws(url text, signature text) RETURNS jsonb LANGUAGE sql AS $$
  SELECT pg_temp.spec('{"auth": {"type": "sigv4", "service": "service", "region": "us-east-1", "access_key": "AKIDEXAMPLE", "secret_key": "{{secret.key}}"}}'
    || pg_temp.action(jsonb_build_object('request', jsonb_build_object('method', 'GET', 'url', url)))
    || pg_temp.test(jsonb_build_object('now', '2015-08-30T12:36:00Z', 'secrets', '{"key": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"}'::jsonb,
         'rows', pg_temp.rows('{}'), 'expect', jsonb_build_object('headers', jsonb_build_object('X-Amz-Date', '20150830T123600Z', 'Authorization',
           'AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders=host;x-amz-date, Signature=' || signature)))))
$$;
SELECT cdi_check_destination_spec(pg_temp.aws('https://example.amazonaws.com/', '5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31'));
SELECT cdi_check_destination_spec(pg_temp.aws('https://example.amazonaws.com/?Param2=value2&Param1=value1', 'b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500'));
-- ... and botocore's of what its canonical form changes: letters beyond ASCII, slashes, names of which one begins with the other, spaces
SELECT cdi_check_destination_spec(pg_temp.aws('https://example.amazonaws.com/ሴ', '697b34846207a3f72246f99d74ae1ee4fe54f44bb06730c58a0d339eb079596d'));
SELECT cdi_check_destination_spec(pg_temp.aws('https://example.amazonaws.com//example//', '9a624bd73a37c9a373b5312afbebe7a714a789de108f0bdfe846570885f57e84'));
SELECT cdi_check_destination_spec(pg_temp.aws('https://example.amazonaws.com/?a-b=1&a=2&a1=3', '1aae6d6b8914d3cbf962587bf6787c4faeb61db19e739587781283e0860c3595'));
SELECT cdi_check_destination_spec(jsonb_set(replace(pg_temp.aws('https://example.amazonaws.com/', 'ff02b0c1f5d5ed9ba88fcc1f2d0e88989a5e383cb21d5c0c8b5ba5dfb4b0c6e7')::text, 'host;x-amz-date', 'host;x-a;x-a-b;x-amz-date')::jsonb,
  '{actions,a,request,headers}', '{"x-a": "v  w   x", "x-a-b": "1"}'));
-- ... and that of the documentation of S3 (GET with a Range, 2013)
SELECT cdi_check_destination_spec(pg_temp.spec('{"auth": {"type": "sigv4", "service": "s3", "region": "us-east-1", "access_key": "AKIAIOSFODNN7EXAMPLE", "secret_key": "{{secret.key}}"}}'
  || pg_temp.action('{"request": {"method": "GET", "url": "https://examplebucket.s3.amazonaws.com/test.txt", "headers": {"Range": "bytes=0-9"}}}')
  || pg_temp.test(jsonb_build_object('now', '2013-05-24T00:00:00Z', 'secrets', '{"key": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"}'::jsonb, 'rows', pg_temp.rows('{}'),
     'expect', '{"headers": {"Authorization": "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, SignedHeaders=host;range;x-amz-content-sha256;x-amz-date, Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"}}'::jsonb))));

-- JSON Web Token: the signature is Python's hmac over the same text
SELECT cdi_check_destination_spec(pg_temp.spec('{"auth": {"type": "jwt", "algorithm": "HS256", "key": "{{secret.key}}", "claims": {"sub": "1234567890"}}}'
  || pg_temp.action('{}')
  || pg_temp.test(jsonb_build_object('secrets', '{"key": "your-256-bit-secret"}'::jsonb, 'rows', pg_temp.rows('{}'),
     'expect', '{"headers": {"Authorization": "Bearer eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"}}'::jsonb))));
-- HMAC: test case 2 of RFC 4231, with SHA-512, over something else than the body
SELECT cdi_check_destination_spec(pg_temp.spec('{"auth": {"type": "hmac", "algorithm": "sha512", "header": "X-Sign", "key": "{{secret.key}}", "over": "what do ya want <body>"}}'
  || pg_temp.action('{"request": {"method": "POST", "url": "https://x.example/", "body": {"format": "text", "template": "for nothing?"}}}')
  || pg_temp.test(jsonb_build_object('secrets', '{"key": "Jefe"}'::jsonb, 'rows', pg_temp.rows('{}'),
     'expect', '{"headers": {"X-Sign": "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737"}}'::jsonb))));
-- A credential in the address: its name is encoded, too, and what follows "#" is not sent
SELECT cdi_check_destination_spec(pg_temp.spec('{"auth": {"type": "query", "name": "api key", "value": "{{secret.key}}"}}'
  || pg_temp.action('{"request": {"method": "GET", "url": "https://x.example/?a#top?"}}')
  || pg_temp.test(jsonb_build_object('secrets', '{"key": "a&b"}'::jsonb, 'rows', pg_temp.rows('{}'), 'expect', '{"url": "https://x.example/?a&api%20key=a%26b#top?"}'::jsonb))));
-- OAuth: what is asked, and how answers are read
SELECT cdi_check_destination_spec(pg_temp.spec('{"auth": {"type": "oauth2", "grant": "refresh_token", "token_url": "https://id.example/token", "client_id": "us", "client_secret": "{{secret.other}}", "refresh_token": "{{secret.key}}", "scope": "a b"}}'
  || pg_temp.action('{}')
  || pg_temp.test(
    '{"name": "asks", "stage": "token", "secrets": {"key": "r&1", "other": "s"}, "expect": {"method": "POST", "url": "https://id.example/token", "headers": {"Content-Type": "application/x-www-form-urlencoded"}, "body_text": "scope=a%20b&client_id=us&grant_type=refresh_token&client_secret=s&refresh_token=r%261"}}',
    '{"name": "gets", "stage": "token", "answer": {"status": 200, "body": {"access_token": "t", "expires_in": 3600}}, "expect": {"token": "t"}}',
    '{"name": "revoked", "stage": "token", "answer": {"status": 400, "body": {"error": "invalid_grant"}}, "expect": {"error": "invalid_grant"}}',
    '{"name": "down", "stage": "token", "answer": {"status": 503}, "expect": {"error": "HTTP 503"}}',
    jsonb_build_object('name', 'uses', 'token', 't', 'rows', pg_temp.rows('{}'), 'expect', '{"headers": {"Authorization": "Bearer t"}}'::jsonb))));

-- Bodies
SELECT cdi_check_destination_spec(pg_temp.spec(pg_temp.action('{"request": {"method": "POST", "url": "https://x.example/", "body": {"format": "csv", "columns": ["id", "text", "n"]}}}')
  || pg_temp.test(jsonb_build_object('rows', pg_temp.rows('{"id": "1", "text": "a \"b\", c", "n": 1.25}', '{"id": "2", "n": null}'),
     'expect', jsonb_build_object('headers', '{"Content-Type": "text/csv"}'::jsonb, 'body_text', E'id,text,n\n1,"a ""b"", c",1.25\n2,,\n')))));
SELECT cdi_check_destination_spec(pg_temp.spec(pg_temp.action('{"request": {"method": "POST", "url": "https://x.example/", "body": {"format": "form", "template": {"a": "{{mapped.a}}", "b": ["1", "2"], "c": null, "d": {"x": 1}}}}}')
  || pg_temp.test(jsonb_build_object('rows', pg_temp.rows('{"a": "1 & 2"}'), 'expect', jsonb_build_object('body_text', 'a=1%20%26%202&b=1&b=2&d=%7B%22x%22%3A%201%7D')))));
SELECT cdi_check_destination_spec(pg_temp.spec(pg_temp.action('{"request": {"method": "POST", "url": "https://x.example/", "body": {"format": "json", "template": {"schema": ["A", "B"], "a": {"@column": "a"}, "b": {"@column": "b"}}}}}')
  || pg_temp.test(jsonb_build_object('rows', pg_temp.rows('{"a": 1, "b": "x"}', '{"a": 2}'), 'expect', '{"body": {"schema": ["A", "B"], "a": [1, 2], "b": ["x", null]}}'::jsonb))));
SELECT cdi_check_destination_spec(pg_temp.spec(pg_temp.action('{"request": {"method": "POST", "url": "https://x.example/", "body": {"format": "json", "template": {"schema": ["A", "B"], "data": {"@rows": ["a", "b"]}}}}}')
  || pg_temp.test(jsonb_build_object('rows', pg_temp.rows('{"a": 1, "b": "x"}', '{"b": null}'), 'expect', '{"body": {"schema": ["A", "B"], "data": [[1, "x"], ["", ""]]}}'::jsonb))));
SELECT cdi_check_destination_spec(pg_temp.spec(pg_temp.action('{"map": [{"@path": "$.a"}, {"@path": "$.b"}], "request": {"method": "POST", "url": "https://x.example/", "body": {"format": "ndjson"}}}')
  || pg_temp.test(jsonb_build_object('rows', pg_temp.rows('{"a": 1, "b": "x"}', '{"a": 2, "b": "y"}'), 'expect', jsonb_build_object('body_text', E'[1,"x"]\n[2,"y"]\n')))));
-- Items of several lists in one request, and what of them the address needs but the body does not
SELECT cdi_check_destination_spec(pg_temp.spec(pg_temp.action('{"map": {"v": {"@path": "$.v"}}, "list": "{{$.kind}}", "meta": {"id": {"@path": "$.id"}}, "request": {"method": "PUT", "url": "https://x.example/{{meta.id|urlencode}}/{{mapped.v}}",
     "body": {"format": "json", "template": {"events": {"@items": "event"}, "users": {"@items": "user"}}}},
   "response": {"rules": [{"status": [201], "class": "ok", "rows": {"each": "$.errors", "array": "@.in", "index": "@.index", "message": "@.type"}}]}}')
  || pg_temp.test(
    jsonb_build_object('rows', pg_temp.rows('{"kind": "event", "v": 1, "id": "a/b"}', '{"kind": "user", "v": 2}', '{"kind": "event", "v": 3}'),
      'expect', '{"url": "https://x.example/a%2Fb/1", "body": {"events": [{"v": 1}, {"v": 3}], "users": [{"v": 2}]}}'::jsonb),
    jsonb_build_object('rows', pg_temp.rows('{"kind": "event", "v": 1}', '{"kind": "user", "v": 2}', '{"kind": "event", "v": 3}'),
      'answer', '{"status": 201, "body": {"errors": [{"in": "event", "index": 1, "type": "bad time"}, {"in": "user", "index": 0, "type": "no id"}]}}'::jsonb,
      'expect', '{"class": "ok", "rows": [{"index": 2, "class": "rejected", "message": "bad time"}, {"index": 1, "message": "no id"}]}'::jsonb),
    jsonb_build_object('rows', pg_temp.rows('{"kind": "event", "v": 1}', '{"kind": "user", "v": 2}', '{"kind": "event", "v": 3}'),
      'answer', '{"status": 201, "body": {"errors": [{"in": "event", "index": 1, "type": "bad time"}, {"in": "user", "index": 7, "type": "?"}]}}'::jsonb,
      'expect', '{"class": "rejected", "split": true, "rows": []}'::jsonb),
    jsonb_build_object('rows', pg_temp.rows('{"kind": "event", "v": 1}', '{"kind": "user", "v": 2}'),
      'answer', '{"status": 201, "body": {"errors": [{"in": "event", "index": 0, "type": "bad time"}, {"in": "user", "index": 0, "type": "no id"}, {"in": "user", "index": 7, "type": "?"}]}}'::jsonb,
      'expect', '{"class": "ok", "rows": [{"index": 0, "message": "bad time"}, {"index": 1, "message": "no id"}]}'::jsonb))));
-- Parts that read one list know its entries together; who counts says how many failed
SELECT cdi_check_destination_spec(pg_temp.spec(pg_temp.action('{"response": {"rules": [
     {"status": [200], "class": "ok", "rows": [{"each": "$.bad[*]", "match": {"value": "@", "to": "mapped.email"}}, {"each": "$.bad[*]", "match": {"value": "@", "to": "mapped.id"}}]},
     {"status": [201], "class": "ok", "failed": "$.n", "rows": {"each": "$.bad[*]", "match": {"value": "@", "to": "mapped.id"}}}]}}')
  || pg_temp.test(
    jsonb_build_object('name', 'by either', 'rows', pg_temp.rows('{"email": "a"}', '{"id": "b"}', '{"email": "c"}'), 'answer', '{"status": 200, "body": {"bad": ["b", "c"]}}'::jsonb, 'expect', '{"class": "ok", "rows": [{"index": 1}, {"index": 2}]}'::jsonb),
    jsonb_build_object('name', 'by neither', 'rows', pg_temp.rows('{"email": "a"}', '{"id": "b"}', '{"email": "c"}'), 'answer', '{"status": 200, "body": {"bad": ["b", "z"]}}'::jsonb, 'expect', '{"class": "rejected", "split": true, "rows": []}'::jsonb),
    jsonb_build_object('name', 'counted', 'rows', pg_temp.rows('{"id": "a"}', '{"id": "b"}'), 'answer', '{"status": 201, "body": {"n": 1, "bad": ["b", "z"]}}'::jsonb, 'expect', '{"class": "ok", "rows": [{"index": 1}]}'::jsonb))));

-- Rows of an answer: by value, by an expression over a pointer, deep inside, named by members, by their place
SELECT cdi_check_destination_spec(pg_temp.spec(pg_temp.action('{"response": {"rules": [
     {"status": [200], "class": "ok", "rows": [{"each": ["$.bad.emails", "$.bad.ids"], "match": {"value": "@", "to": {"@first": [{"@path": "mapped.email"}, {"@path": "mapped.id"}]}}, "message": {"@template": "not accepted"}}]},
     {"status": [400], "class": "rejected", "rows": {"each": "$.errors", "index": {"@pipe": [{"@path": "@.pointer"}, ["extract", "/data/([0-9]+)"]]}, "message": "@.detail"}},
     {"status": [409], "class": "rejected", "rows": {"each": "$.details[*].errors", "index": "@.path[0].index", "message": "@.text"}},
     {"status": [422], "class": "rejected", "rows": {"each": "$.fields[*][*]", "index": "@", "message": {"@template": "invalid {{key}}"}}},
     {"status": [207], "class": "ok", "rows": [{"each": "$.results", "when": {"eq": ["@.code", "LOCKED"]}, "class": "retryable", "message": "@.code"}, {"each": "$.results", "when": {"eq": ["@.ok", false]}, "message": "@.code"}]},
     {"status": [429], "class": "throttled", "retry_after": ["header.X-Reset|epoch", "$.wait|ms"], "message": "$.why"}]}}')
  || pg_temp.test(
    jsonb_build_object('name', 'by value', 'rows', pg_temp.rows('{"email": "a"}', '{"id": "b"}', '{"email": "c"}'), 'answer', '{"status": 200, "body": {"bad": {"emails": ["c"], "ids": ["b"]}}}'::jsonb,
      'expect', '{"rows": [{"index": 1, "message": "not accepted"}, {"index": 2}]}'::jsonb),
    '{"name": "by pointer", "rows": [1, 2, 3], "answer": {"status": 400, "body": {"errors": [{"pointer": "/data/2/attributes", "detail": "d"}, {"pointer": "/meta"}]}}, "expect": {"class": "rejected", "rows": [{"index": 2, "message": "d"}]}}',
    '{"name": "deep", "rows": [1, 2], "answer": {"status": 409, "body": {"details": [{"errors": [{"path": [{"index": 1}], "text": "t"}]}, {}, {"errors": []}]}}, "expect": {"rows": [{"index": 1, "message": "t"}]}}',
    '{"name": "by members", "rows": [1, 2, 3], "answer": {"status": 422, "body": {"fields": {"time": [0, 2], "id": [2]}}}, "expect": {"rows": [{"index": 0, "message": "invalid time"}, {"index": 2, "message": "invalid id"}]}}',
    '{"name": "by place", "rows": [1, 2, 3], "answer": {"status": 207, "body": {"results": [{"ok": true}, {"ok": false, "code": "LOCKED"}, {"ok": false, "code": "NO"}]}}, "expect": {"rows": [{"index": 1, "class": "retryable", "message": "LOCKED"}, {"index": 2, "class": "rejected", "message": "NO"}]}}',
    '{"name": "wait until", "now": "2026-01-01T00:00:00Z", "answer": {"status": 429, "headers": {"x-reset": "1767225630"}, "body": {"why": "slow down"}}, "expect": {"class": "throttled", "retry_after": 30, "message": "slow down"}}',
    '{"name": "wait for", "answer": {"status": 429, "body": {"wait": 1500}}, "expect": {"retry_after": 2}}',
    '{"name": "no JSON", "rows": [1, 2], "answer": {"status": 200, "body": "<html>"}, "expect": {"class": "retryable", "message": "the answer cannot be read: it is no JSON", "rows": []}}',
    '{"name": "nothing", "rows": [1, 2], "answer": {"status": 200, "body": ""}, "expect": {"class": "ok", "rows": []}}',
    jsonb_build_object('name', 'of nobody we know', 'rows', pg_temp.rows('{"email": "a"}', '{"email": "b"}'), 'answer', '{"status": 200, "body": {"bad": {"emails": ["A"]}}}'::jsonb, 'expect', '{"class": "rejected", "split": true, "rows": []}'::jsonb),
    '{"name": "beyond the last", "rows": [1, 2], "answer": {"status": 207, "body": {"results": [{"ok": true}, {"ok": true}, {"ok": false}]}}, "expect": {"class": "rejected", "split": true}}')));
-- A number that JSON writes with a fraction is an index as well
SELECT cdi_check_destination_spec(pg_temp.spec(pg_temp.action('{"response": {"rules": [{"class": "ok", "rows": {"each": "$", "index": "@"}}]}}')
  || pg_temp.test('{"rows": [1, 2, 3], "answer": {"status": 200, "body": [1.0, "2"]}, "expect": {"rows": [{"index": 1}, {"index": 2}]}}',
    '{"rows": [1, 2, 3], "answer": {"status": 200, "body": [1.5, -1, "x"]}, "expect": {"class": "rejected", "split": true}}')));
-- What is no body: headers and plain text
SELECT cdi_check_destination_spec(pg_temp.spec(pg_temp.action('{"response": {"rules": [{"status": ["2xx"], "when": {"exists": "header.X-Amz-Function-Error"}, "class": "rejected", "message": "header.x-amz-function-error"},
     {"status": ["2xx"], "when": {"matches": ["{{text|trim}}", "^ok$"]}, "class": "ok"}, {"status": ["2xx"], "when": {"in": ["$.code", [1, 2]]}, "class": "throttled"}, {"status": ["2xx"], "class": "rejected", "message": "text"}]}}')
  || pg_temp.test(
    '{"answer": {"status": 200, "headers": {"X-Amz-Function-Error": "Unhandled"}, "body": {}}, "expect": {"class": "rejected", "message": "Unhandled"}}',
    '{"answer": {"status": 200, "body": "ok\n"}, "expect": {"class": "ok"}}',
    '{"answer": {"status": 200, "body": {"code": 2}}, "expect": {"class": "throttled"}}',
    '{"answer": {"status": 200, "body": "no_text"}, "expect": {"class": "rejected", "message": "no_text"}}')));

-- A message is one line of at most 500 bytes, cut between characters; what is below a space is one
SELECT bytes, cdi_check_destination_spec(pg_temp.spec(pg_temp.action('{"response": {"rules": [{"class": "rejected", "message": "$.why"}]}}')
  || pg_temp.test(jsonb_build_object('answer', jsonb_build_object('status', 400, 'body', jsonb_build_object('why', message || repeat('!', 600))), 'expect', jsonb_build_object('message', translate(message, E'\t\n\r\x01', '    ') || repeat('!', 500 - bytes))))))
FROM (SELECT E'\x01a\tb\r\n' || repeat('x', n) || rest, octet_length(E'\x01a\tb\r\n' || repeat('x', n) || rest) FROM (VALUES (0, ''), (489, 'ä€'), (488, 'ä𝄞')) v(n, rest)) m(message, bytes);
SELECT size, cdi_check_destination_spec(pg_temp.spec(pg_temp.action('{"response": {"rules": [{"class": "rejected", "message": "$.why"}]}}')
  || pg_temp.test(jsonb_build_object('answer', jsonb_build_object('status', 400, 'body', jsonb_build_object('why', repeat('x', 501 - size) || c || 'x')), 'expect', jsonb_build_object('message', repeat('x', 501 - size))))))
FROM (SELECT c, octet_length(c) FROM unnest(ARRAY['ä', '€', '𝄞']) c) u(c, size);

-- Stages: look up, then create or change, then ask until a job is done and read its result as CSV
SELECT cdi_check_destination_spec(pg_temp.spec(pg_temp.action('{"map": {"email": {"@path": "$.email"}}, "batch": {"max_items": 1},
   "steps": [{"name": "find", "request": {"method": "GET", "url": "https://x.example/find?email={{mapped.email|urlencode}}"},
              "response": {"rules": [{"status": [404], "class": "ok"}]}, "extract": {"id": {"@path": "$.data[0].id"}}}],
   "request": {"method": {"@if": {"condition": {"exists": "step.find.id"}, "then": "PUT", "else": "POST"}}, "url": "https://x.example/contacts/{{step.find.id}}", "body": {"format": "json", "template": {"@item": true}}},
   "then": [{"name": "wait", "request": {"method": "GET", "url": "https://x.example/job", "when": {"empty": "step.find.id"}}, "poll": {"every": "30s", "until": {"in": ["$.state", ["done", "failed"]]}, "limit": "1h"}},
            {"name": "result", "request": {"method": "GET", "url": "https://x.example/result"}, "response": {"format": "csv", "rules": [{"status": [200], "class": "ok", "rows": {"each": "$", "when": {"ne": ["@.error", ""]}, "match": {"value": "@.email", "to": "mapped.email"}, "message": "@.error"}}]}}]}')
  || pg_temp.test(
    jsonb_build_object('name', 'find', 'stage', 'find', 'rows', pg_temp.rows('{"email": "a+b@c"}'), 'expect', '{"method": "GET", "url": "https://x.example/find?email=a%2Bb%40c"}'::jsonb),
    '{"name": "found", "stage": "find", "answer": {"status": 200, "body": {"data": [{"id": 7}]}}, "expect": {"class": "ok", "extract": {"id": 7}}}',
    '{"name": "not found", "stage": "find", "answer": {"status": 404, "body": {}}, "expect": {"class": "ok", "extract": {}}}',
    jsonb_build_object('name', 'change', 'steps', '{"find": {"id": 7}}'::jsonb, 'rows', pg_temp.rows('{"email": "a"}'), 'expect', '{"method": "PUT", "url": "https://x.example/contacts/7"}'::jsonb),
    jsonb_build_object('name', 'create', 'steps', '{"find": {}}'::jsonb, 'rows', pg_temp.rows('{"email": "a"}'), 'expect', '{"method": "POST", "url": "https://x.example/contacts/"}'::jsonb),
    jsonb_build_object('name', 'need not wait', 'stage', 'wait', 'steps', '{"find": {"id": 7}}'::jsonb, 'rows', pg_temp.rows('{"email": "a"}'), 'expect', '{"sent": false}'::jsonb),
    '{"name": "under way", "stage": "wait", "answer": {"status": 200, "body": {"state": "busy"}}, "expect": {"class": "ok", "unfinished": true}}',
    '{"name": "done", "stage": "wait", "answer": {"status": 200, "body": {"state": "done"}}, "expect": {"class": "ok", "unfinished": false}}',
    jsonb_build_object('name', 'result', 'stage', 'result', 'rows', pg_temp.rows('{"email": "a"}', '{"email": "b"}'), 'answer', jsonb_build_object('status', 200, 'body', E'email,error\r\nb,"no, thanks"\r\na,\r\n'),
      'expect', '{"rows": [{"index": 1, "class": "rejected", "message": "no, thanks"}]}'::jsonb))));

-- Functions
SELECT cdi_check_destination_spec(pg_temp.spec(pg_temp.action('{"batch": {"max_items": 1}, "map": {
     "time": {"@fn": ["format_time", {"@path": "$.at"}, "%Y-%m-%d %H:%M:%S+00:00"]}, "id": {"@fn": ["uuid5", {"@path": "$.name"}, "6ba7b810-9dad-11d1-80b4-00c04fd430c8"]},
     "mail": {"@fn": ["email_google", {"@path": "$.mail"}]}, "gender": {"@fn": ["gender", {"@path": "$.gender"}]}, "only": {"@fn": ["only", {"@path": "$.o"}, "a", "b"]}, "except": {"@fn": ["except", {"@path": "$.o"}, "a"]},
     "entries": {"@fn": ["entries", {"@path": "$.o"}, "property", "value"]}, "flat": {"@fn": ["flatten", {"@path": "$.deep"}, "."]}, "part": {"@fn": ["extract", {"@path": "$.mail"}, "@(.*)$"]}},
   "request": {"method": "POST", "url": "https://x.example/", "body": {"format": "json", "template": {"@item": true}}}}')
  || pg_temp.test(jsonb_build_object('rows', pg_temp.rows('{"at": "2026-03-01T10:20:30.5+02:00", "name": "www.widgets.com", "mail": " Ada.Lovelace+x@GMail.com ", "gender": "Female", "o": {"a": 1, "c": null}, "deep": {"a": {"b": {"c": [1]}, "d": 2}}}'),
     'expect', '{"body": {"time": "2026-03-01 08:20:30+00:00", "id": "21f7f8de-8051-5b89-8680-0195ef798b6a", "mail": "adalovelace@gmail.com", "gender": "f", "only": {"a": 1}, "except": {"c": null},
       "entries": [{"property": "a", "value": 1}, {"property": "c", "value": null}], "flat": {"a.b.c": [1], "a.d": 2}, "part": "GMail.com "}}'::jsonb))));

-- White space is Unicode's; "%%" is a sign
SELECT cdi_check_destination_spec(pg_temp.spec(pg_temp.action('{"batch": {"max_items": 1}, "map": {"trim": {"@fn": ["trim", {"@path": "$.a"}]}, "none": {"@fn": ["nospace", {"@path": "$.a"}]}, "empty": {"@fn": ["trim", {"@path": "$.b"}]}, "t": {"@fn": ["format_time", 0, "100%%Y %Y"]}},
   "request": {"method": "POST", "url": "https://x.example/", "body": {"format": "json", "template": {"@item": true}}}}')
  || pg_temp.test(jsonb_build_object('rows', pg_temp.rows('{"a": "\u00a0\u2003Ä \u00a0b\ufeff\t", "b": "\u3000\u2028"}'), 'expect', '{"body": {"trim": "Ä \u00a0b", "none": "Äb", "t": "100%Y 1970"}}'::jsonb))));
-- Telephone numbers as libphonenumber reads them: what is dialled within a country, a zero that is not dialled, extensions
SELECT number, country, cdi_check_destination_spec(pg_temp.spec(pg_temp.action(jsonb_build_object('batch', '{"max_items": 1}'::jsonb, 'map', jsonb_build_object('n', jsonb_build_object('@fn', jsonb_build_array('e164', number, country))),
   'request', '{"method": "POST", "url": "https://x.example/", "body": {"format": "text", "template": "{{mapped.n}}"}}'::jsonb))
  || pg_temp.test(jsonb_build_object('rows', pg_temp.rows('{}'), 'expect', jsonb_build_object('body_text', e164)))))
FROM (VALUES ('1 (650) 253-0000', '1', '+16502530000'), ('8 (912) 345-67-89', '7', '+79123456789'), ('79123456789', '7', '+79123456789'), ('06 1 234 5678', '36', '+3612345678'), ('06 1234 5678', '39', '+390612345678'),
  ('030 123456', '49', '+4930123456'), ('+49 (0)30 123456', '1', '+4930123456'), ('0049 (0)30 123456', '1', '+4930123456'), ('+39 (0)6 1234 5678', '1', '+390612345678'), ('tel:+49-30-123456;ext=5', '49', '+4930123456'), ('+1 650 253 0000 ext. 5', '49', '+16502530000'),
  ('8 029 491-19-11', '375', '+375294911911'), ('011 15-2349-2740', '54', '+5491123492740'), ('0351 15-612-3456', '54', '+5493516123456'), ('8 902 123 9294', '375', '+3759021239294'), ('1-800-FLOWERS', '1', ''), ('12', '49', '')) v(number, country, e164);

-- Members whose name is a setting; what requires one; items in the address
SELECT cdi_check_destination_spec(pg_temp.spec('{"settings": {"type": "object", "properties": {"by": {"type": "string", "default": "email"}}}}'
  || pg_temp.action('{"map": {"id": {"@member": [{"@path": "$"}, "{{settings.by}}"]}, "row": {"@path": "$"}}, "require": [{"@member": [{"@path": "$.deep"}, "{{settings.by}}x"]}],
     "request": {"method": "POST", "url": {"@template": "https://x.example/"}, "body": {"format": "json", "template": {"n": {"@fn": ["count", {"@items": "*"}]}, "first": {"@member": [{"@path": "mapped"}, "id"]}, "none": {"@member": ["text", "id"]}, "members": {"@fn": ["count", {"@path": "mapped.row"}]}}}}}')
  || pg_temp.test(jsonb_build_object('rows', pg_temp.rows('{"email": "a", "deep": {"emailx": 1}}', '{"email": "b", "deep": {"email": 1}}', '{"email": "c", "deep": {"emailx": false}}'),
     'expect', '{"invalid": [1], "body": {"n": 2, "first": "a", "members": 2}}'::jsonb))));
SELECT cdi_check_destination_spec(pg_temp.spec(pg_temp.action('{"map": {"id": {"@path": "$.id"}}, "request": {"method": "DELETE", "url": {"@fn": ["join", ["https://x.example/many?ids=", {"@fn": ["urlencode", {"@fn": ["join", {"@column": "id"}, ","]}]}], ""]}}}')
  || pg_temp.test(jsonb_build_object('rows', pg_temp.rows('{"id": 7}', '{"id": "a b"}'), 'expect', '{"url": "https://x.example/many?ids=7%2Ca%20b"}'::jsonb))));
-- CSV of whatever columns the rows have, with a word for null; compressed where a condition says so
SELECT cdi_check_destination_spec(pg_temp.spec('{"settings": {"type": "object", "properties": {"zip": {"type": "boolean", "default": false}}}}'
  || pg_temp.action('{"request": {"method": "POST", "url": "https://x.example/", "body": {"format": "csv", "columns": "*", "null": "#N/A", "gzip": {"eq": ["settings.zip", true]}}}}')
  || pg_temp.test(jsonb_build_object('rows', pg_temp.rows('{"a": 1, "b c": "x"}', '{"a": null, "q\"": ""}'), 'expect', jsonb_build_object('headers', '{"Content-Encoding": null}'::jsonb, 'body_text', E'a,b c,"q"""\n1,x,\n#N/A,,\n')),
    jsonb_build_object('settings', '{"zip": true}'::jsonb, 'rows', pg_temp.rows('{"a": 1}'), 'expect', '{"headers": {"Content-Encoding": "gzip"}}'::jsonb))));
-- Where an answer counts more failures than it names rows, nobody knows which: halve
SELECT cdi_check_destination_spec(pg_temp.spec(pg_temp.action('{"map": {"id": {"@path": "$.id"}}, "response": {"rules": [
     {"status": [200], "class": "ok", "failed": "$.failed", "rows": {"each": "$.errors", "match": {"value": "@.id", "to": "mapped.id"}, "message": "@.why"}},
     {"status": [207], "class": "ok", "accepted": {"@fn": ["count", {"@path": "$.results"}]}, "rows": {"each": "$.errors", "match": {"value": "@.id", "to": "mapped.id"}, "message": "@.why"}}]},
   "extract": {"ids": {"@each": {"in": "$.results", "map": {"id": {"@path": "@.id"}}}}}}')
  || pg_temp.test(
    jsonb_build_object('name', 'all named', 'rows', pg_temp.rows('{"id": "a"}', '{"id": "b"}'), 'answer', '{"status": 200, "body": {"failed": 1, "errors": [{"id": "b", "why": "no"}]}}'::jsonb, 'expect', '{"class": "ok", "rows": [{"index": 1, "class": "rejected", "message": "no"}]}'::jsonb),
    jsonb_build_object('name', 'one not named', 'rows', pg_temp.rows('{"id": "a"}', '{"id": "b"}'), 'answer', '{"status": 200, "body": {"failed": 2, "errors": [{"id": "b", "why": "no"}]}}'::jsonb, 'expect', '{"class": "rejected", "split": true, "rows": []}'::jsonb),
    '{"name": "none failed", "rows": [1, 2], "answer": {"status": 200, "body": {"failed": 0}}, "expect": {"class": "ok", "rows": []}}',
    '{"name": "nothing said", "rows": [1, 2], "answer": {"status": 200, "body": {}}, "expect": {"class": "ok", "rows": []}}',
    '{"name": "all accepted", "rows": [1, 2], "answer": {"status": 207, "body": {"results": [{"id": 3}, {"id": 4}]}}, "expect": {"class": "ok", "rows": [], "extract": {"ids": [{"id": 3}, {"id": 4}]}}}',
    jsonb_build_object('name', 'the other named', 'rows', pg_temp.rows('{"id": "a"}', '{"id": "b"}'), 'answer', '{"status": 207, "body": {"results": [{"id": 3}], "errors": [{"id": "a", "why": "no"}]}}'::jsonb, 'expect', '{"class": "ok", "rows": [{"index": 0, "class": "rejected"}]}'::jsonb),
    '{"name": "one missing", "rows": [1, 2], "answer": {"status": 207, "body": {"results": [{"id": 3}]}}, "expect": {"class": "rejected", "split": true}}',
    '{"name": "none said to be accepted", "rows": [1], "answer": {"status": 207, "body": {}}, "expect": {"class": "rejected"}}')));

-- "$" and item of a request are those of its first row
SELECT cdi_check_destination_spec(pg_temp.spec(pg_temp.action('{"map": {"n": {"@path": "$.n"}}, "batch": {"max_items": 1}, "request": {"method": "PUT", "url": "https://x.example/{{item.primary_key}}?q={{$.id|urlencode}}", "when": {"eq": ["$.n", 5]}, "body": {"format": "text", "template": "{{item.operation}} {{$.n}}"}}}')
  || pg_temp.test(jsonb_build_object('rows', pg_temp.rows('{"id": "a b", "n": 5}'), 'expect', '{"url": "https://x.example/1?q=a%20b", "body_text": "insert 5"}'::jsonb))));

-- Names that nobody declares
SELECT cdi_check_destination_spec(pg_temp.spec('{"auth": {"type": "bearer", "token": "{{secret.token}}"}}' || pg_temp.action('{}')));
SELECT cdi_check_destination_spec(pg_temp.spec('{"auth": {"type": "bearer", "token": "{{settings.key}}"}}' || pg_temp.action('{}')));
SELECT cdi_check_destination_spec(pg_temp.spec(pg_temp.action('{"map": {"x": {"@if": {"condition": {"eq": ["settings.nope", 1]}, "then": 1}}}}')));
SELECT cdi_check_destination_spec(pg_temp.spec(pg_temp.action('{"map": {"x": "a {{ vars.nope | upper }}"}}')));
SELECT cdi_check_destination_spec(pg_temp.spec(pg_temp.action('{"map": {"x": {"@literal": {"y": "{{vars.nope}}"}}}}'))) AS literal;
SELECT cdi_check_destination_spec(pg_temp.spec(pg_temp.action('{"request": {"method": "POST", "url": "https://x.example/", "body": {"format": "json", "template": {"@items": "users"}}}}')));
SELECT cdi_check_destination_spec(pg_temp.spec(pg_temp.action('{"steps": [{"name": "a", "request": {"method": "GET", "url": "https://x.example/"}}, {"name": "b", "request": {"method": "GET", "url": "https://x.example/{{step.a.id}}"}}]}'))) AS known;
SELECT cdi_check_destination_spec(pg_temp.spec(pg_temp.action('{"steps": [{"name": "a", "request": {"method": "GET", "url": "https://x.example/"}}, {"name": "a", "request": {"method": "GET", "url": "https://x.example/{{step.a.id}}"}}]}')));
SELECT cdi_check_destination_spec(pg_temp.spec(pg_temp.action('{"steps": [{"name": "a", "request": {"method": "GET", "url": "https://x.example/"}}, {"name": "main", "request": {"method": "GET", "url": "https://x.example/{{step.a.id}}"}}]}')));
SELECT cdi_check_destination_spec(pg_temp.spec(pg_temp.action('{"then": [{"name": "a", "request": {"method": "GET", "url": "https://x.example/{{step.main.id}}/{{step.b.id}}"}}]}')));
-- ... in every place where a path can stand; the same place takes one that is declared
CREATE FUNCTION pg_temp.refusal(spec jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  detail text;
BEGIN
  PERFORM cdi_check_destination_spec(spec);
  RETURN NULL;
EXCEPTION WHEN SQLSTATE 'ZC403' THEN
  GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
  RETURN detail;
END $$;
-- PATH is to be a path; what is not an action is a member of the specification
CREATE FUNCTION pg_temp.place(place text, path text) RETURNS jsonb LANGUAGE sql AS $$
  SELECT pg_temp.spec('{"vars": {"known": "v"}, "settings": {"type": "object", "properties": {"known": {"type": "string"}, "key": {"type": "string", "secret": true}}}}'
    || CASE WHEN place ~ '^."(auth|vars)"' THEN pg_temp.action('{}') ELSE '{}' END
    || CASE WHEN place ~ '^."(auth|vars)"' THEN named ELSE pg_temp.action(named) END)
  FROM (SELECT replace(replace(place, 'REQUEST', '"method": "POST", "url": "https://x.example/"'), 'PATH', path)::jsonb) p(named)
$$;
SELECT replace(place, 'REQUEST', '...') AS place, pg_temp.refusal(pg_temp.place(place, 'settings.nope')) AS "settings.nope",
  pg_temp.refusal(pg_temp.place(place, 'vars.nope')) IS NOT NULL AS vars, pg_temp.refusal(pg_temp.place(place, 'step.nope')) IS NOT NULL AS step, pg_temp.refusal(pg_temp.place(place, 'secret.nope')) IS NOT NULL AS secret,
  pg_temp.refusal(pg_temp.place(place, 'settings.key')) IS NOT NULL AS "secret as setting", pg_temp.refusal(pg_temp.place(place, 'settings.known')) AS declared
FROM unnest(ARRAY[
  '{"map": "a {{ PATH | upper }}"}', '{"map": ["{{PATH}}"]}', '{"map": {"x": {"@path": "PATH"}}}', '{"map": {"x": {"@template": "{{PATH}}"}}}', '{"map": {"x": {"@first": [{"@path": "$.a"}, {"@path": "PATH"}]}}}', '{"map": {"@merge": [{"@path": "PATH"}]}}',
  '{"map": {"x": {"@pipe": [{"@path": "PATH"}, "upper"]}}}', '{"map": {"x": {"@fn": ["upper", "{{PATH}}"]}}}', '{"map": {"x": {"@member": [{"@path": "$"}, "{{PATH}}"]}}}',
  '{"map": {"x": {"@case": {"in": {"@path": "PATH"}, "of": {}}}}}', '{"map": {"x": {"@case": {"in": "", "of": {"a": "{{PATH}}"}}}}}', '{"map": {"x": {"@case": {"in": "", "of": {}, "else": {"@path": "PATH"}}}}}',
  '{"map": {"x": {"@each": {"in": "PATH", "map": "1"}}}}', '{"map": {"x": {"@each": {"in": "$.a", "map": {"y": "{{PATH}}"}}}}}',
  '{"map": {"x": {"@if": {"condition": {"exists": "PATH"}, "then": 1}}}}', '{"map": {"x": {"@if": {"condition": {"exists": "$.a"}, "then": "{{PATH}}"}}}}', '{"map": {"x": {"@if": {"condition": {"exists": "$.a"}, "then": 1, "else": "{{PATH}}"}}}}',
  '{"when": {"empty": "PATH"}}', '{"when": {"eq": [1, "PATH"]}}', '{"when": {"ne": ["PATH", 1]}}', '{"when": {"lt": ["PATH", 1]}}', '{"when": {"gt": [{"@path": "PATH"}, 1]}}', '{"when": {"in": ["PATH", []]}}', '{"when": {"in": ["", [1, "{{PATH}}"]]}}', '{"when": {"matches": ["PATH", "a"]}}',
  '{"when": {"all": [{"any": [{"exists": "$.a"}, {"not": {"exists": "PATH"}}]}]}}', '{"require": [{"@path": "PATH"}]}', '{"group_by": "{{PATH}}"}', '{"list": "{{PATH}}"}', '{"meta": {"a": {"@path": "PATH"}}}',
  '{"batch": {"max_items": "{{PATH}}"}}', '{"batch": {"max_items": {"@path": "PATH"}}}', '{"batch": {"max_bytes": "{{PATH}}"}}', '{"batch": {"order_key": {"@path": "PATH"}}}',
  '{"request": {"method": "{{PATH}}", "url": "https://x.example/"}}', '{"request": {"method": "GET", "url": "https://x.example/{{PATH|urlencode}}"}}', '{"request": {"method": "GET", "url": {"@template": "https://x.example/{{PATH}}"}}}',
  '{"request": {REQUEST, "headers": {"X-A": "{{PATH}}"}}}', '{"request": {REQUEST, "headers": {"@merge": [{"@path": "PATH"}]}}}', '{"request": {REQUEST, "when": {"exists": "PATH"}}}',
  '{"request": {REQUEST, "body": {"format": "json", "template": {"a": [{"@path": "PATH"}]}}}}', '{"request": {REQUEST, "body": {"format": "form", "template": {"a": "{{PATH}}"}}}}', '{"request": {REQUEST, "body": {"format": "text", "template": "{{PATH}}"}}}', '{"request": {REQUEST, "body": {"format": "ndjson", "gzip": {"eq": ["PATH", true]}}}}',
  '{"response": {"rules": [{"class": "ok", "when": {"exists": "PATH"}}]}}', '{"response": {"rules": [{"class": "rejected", "message": "PATH"}]}}', '{"response": {"rules": [{"class": "rejected", "message": {"@template": "{{PATH}}"}}]}}', '{"response": {"rules": [{"class": "ok", "failed": "PATH"}]}}', '{"response": {"rules": [{"class": "ok", "accepted": {"@path": "PATH"}}]}}',
  '{"response": {"rules": [{"class": "throttled", "retry_after": ["header.X", "PATH|ms"]}]}}', '{"response": {"rules": [{"class": "ok", "rows": {"each": "$", "when": {"exists": "PATH"}}}]}}', '{"response": {"rules": [{"class": "ok", "rows": [{"each": "$", "index": "PATH"}]}]}}', '{"response": {"rules": [{"class": "ok", "rows": {"each": "$", "array": "PATH"}}]}}', '{"response": {"rules": [{"class": "ok", "rows": {"each": "$", "message": "PATH"}}]}}',
  '{"response": {"rules": [{"class": "ok", "rows": {"each": "$", "match": {"value": "PATH", "to": "mapped.a"}}}]}}', '{"response": {"rules": [{"class": "ok", "rows": {"each": "$", "match": {"value": "@", "to": "PATH"}}}]}}', '{"extract": {"a": {"@path": "PATH"}}}', '{"poll": {"every": "1s", "until": {"eq": ["PATH", 1]}}}',
  '{"steps": [{"name": "a", "request": {"method": "GET", "url": "https://x.example/{{PATH}}"}}]}', '{"steps": [{"name": "a", "request": {REQUEST}, "response": {"rules": [{"class": "ok", "when": {"exists": "PATH"}}]}}]}', '{"steps": [{"name": "a", "request": {REQUEST}, "extract": {"b": "{{PATH}}"}}]}', '{"then": [{"name": "a", "request": {REQUEST}, "poll": {"every": "1s", "until": {"exists": "PATH"}}}]}',
  '{"auth": {"type": "bearer", "token": "{{PATH}}"}}', '{"auth": [{"type": "header", "header": "X-A", "value": "{{PATH}}"}]}', '{"auth": {"type": "none", "when": {"exists": "PATH"}}}', '{"auth": {"type": "basic", "username": "{{PATH}}"}}', '{"auth": {"type": "query", "name": "k", "value": "{{PATH}}"}}', '{"auth": {"type": "hmac", "header": "X-A", "key": "k", "over": "{{PATH}}<body>"}}',
  '{"auth": {"type": "jwt", "key": "k", "claims": {"sub": {"@path": "PATH"}}}}', '{"auth": {"type": "sigv4", "service": "s3", "region": "{{PATH}}", "access_key": "a", "secret_key": "k"}}', '{"auth": {"type": "oauth2", "grant": "client_credentials", "token_url": "https://{{PATH}}/", "client_id": "a", "client_secret": "s"}}', '{"auth": {"type": "oauth2", "grant": "client_credentials", "token_url": "https://x.example/", "client_id": "a", "client_secret": "s", "parameters": {"a": "{{PATH}}"}}}',
  '{"vars": {"known": "{{PATH}}"}}']) WITH ORDINALITY p(place, n) ORDER BY n;
-- A stage that comes later is not there yet, and none is where rows are put together; credentials see those of every action
SELECT replace(place, 'REQUEST', '...') AS place, pg_temp.refusal(pg_temp.place(place, 'step.a.id'))
FROM unnest(ARRAY['{"steps": [{"name": "a", "request": {REQUEST}}], "request": {REQUEST, "when": {"exists": "PATH"}}}', '{"steps": [{"name": "a", "request": {REQUEST}, "extract": {"b": "{{PATH}}"}}]}', '{"request": {REQUEST, "when": {"exists": "PATH"}}, "then": [{"name": "a", "request": {REQUEST}}]}',
  '{"steps": [{"name": "a", "request": {REQUEST}}], "batch": {"max_bytes": "{{PATH}}"}}', '{"then": [{"name": "a", "request": {REQUEST}}, {"name": "b", "request": {REQUEST}, "extract": {"c": "{{PATH}}"}}]}']) WITH ORDINALITY p(place, n) ORDER BY n;
SELECT cdi_check_destination_spec(pg_temp.spec('{"auth": {"type": "bearer", "token": "{{step.login.token}}"}}' || pg_temp.action('{"steps": [{"name": "login", "request": {"method": "POST", "url": "https://x.example/login"}, "extract": {"token": {"@path": "$.token"}}}]}')
  || pg_temp.test(jsonb_build_object('steps', '{"login": {"token": "t"}}'::jsonb, 'rows', pg_temp.rows('{}'), 'expect', '{"headers": {"Authorization": "Bearer t"}}'::jsonb)))) AS passed;
-- Paths that lead nowhere whatever is declared; a name in brackets is the same name
SELECT path, pg_temp.refusal(pg_temp.spec('{"vars": {"a": "v", "b.c": "w"}}' || pg_temp.action(jsonb_build_object('request', jsonb_build_object('method', 'GET', 'url', 'https://x.example/?' || path), 'extract', jsonb_build_object('x', path)))))
FROM unnest(ARRAY['{{vars}}', '{{vars.a.b}}', '{{vars[0]}}', '{{item}}', '{{item.name}}', '{{item.key.x}}', '{{batch.keys}}', '{{now.year}}', '{{status[0]}}', '{{vars["a"]}}', '{{vars["b.c"]}}', '{{item["key"]}}', '{{batch[''size'']}}']) WITH ORDINALITY p(path, n) ORDER BY n;
SELECT cdi_check_destination_spec(pg_temp.spec('{"vars": {"b.c": "w"}}' || pg_temp.action('{"request": {"method": "POST", "url": "https://x.example/", "body": {"format": "text", "template": "{{vars[\"b.c\"]}} {{item[\"operation\"]}} {{batch[\"size\"]}}"}}, "response": {"rules": [{"class": "rejected", "message": "header[\"X-Why\"]"}]}}')
  || pg_temp.test(jsonb_build_object('rows', pg_temp.rows('{}'), 'expect', '{"body_text": "w insert 1"}'::jsonb), '{"answer": {"status": 200, "headers": {"x-why": "so"}}, "expect": {"message": "so"}}'))) AS passed;
-- Texts that only look like paths are texts, whatever the name of the member
SELECT cdi_check_destination_spec(pg_temp.spec('{"vars": {"base": "https://vars.example"}}' || pg_temp.action(jsonb_build_object('description', 'Not {{settings.nope}}', 'batch', '{"max_items": 1}'::jsonb,
     'map', '{"x": {"@case": {"in": "settings.nope", "of": {"settings.nope": "step.nope"}}}, "y": {"@fn": ["replace", "a", "a", "{{vars.nope}}"]}, "z": {"@if": {"condition": {"all": [{"in": ["vars", ["vars", "settings.nope"]]}, {"ne": ["a", {"@literal": "settings.nope"}]}, {"not": {"matches": ["a", "settings.nope"]}}]}, "then": "secret.nope"}}}'::jsonb || texts,
     'request', '{"method": "POST", "url": "{{vars.base}}/step.nope", "headers": {"X-A": "settings.nope"}, "body": {"format": "json", "template": {"@item": true}}}'::jsonb,
     'response', '{"rules": [{"class": "rejected", "message": {"@template": "settings.nope"}}]}'::jsonb))
  || pg_temp.test(jsonb_build_object('rows', pg_temp.rows('{}'), 'expect', jsonb_build_object('url', 'https://vars.example/step.nope', 'headers', '{"X-A": "settings.nope"}'::jsonb,
       'body', '{"x": "step.nope", "y": "{{vars.nope}}", "z": "secret.nope"}'::jsonb || texts)),
     '{"answer": {"status": 200}, "expect": {"message": "settings.nope"}}'))) AS passed
FROM (SELECT jsonb_object_agg(name, name || '.nope') || jsonb_object_agg(key, 'settings.' || key) FROM unnest(ARRAY['settings', 'vars', 'step', 'secret']) name, unnest(ARRAY['in', 'exists', 'empty', 'eq', 'ne', 'lt', 'gt', 'matches', 'each', 'index', 'array', 'message', 'value', 'to', 'failed', 'accepted', 'retry_after']) key) t(texts);
SELECT cdi_check_destination_spec(pg_temp.spec(pg_temp.action('{"request": {"method": "POST", "url": "https://x.example/", "body": {"format": "csv", "columns": ["settings.nope"], "null": "{{vars.nope}}"}}}')
  || pg_temp.test(jsonb_build_object('rows', pg_temp.rows('{"settings.nope": null}'), 'expect', jsonb_build_object('body_text', E'settings.nope\n{{vars.nope}}\n'))))) AS passed;
-- A credential's header must have a name
SELECT cdi_check_destination_spec(pg_temp.spec('{"auth": {"type": "header", "header": "X-{{settings.nope}}", "value": "{{secret.key}}"}}' || pg_temp.action('{}')));
-- What could never be sent
SELECT cdi_check_destination_spec(pg_temp.spec(pg_temp.action('{"request": {"method": "post", "url": "https://x.example/"}}')));
SELECT cdi_check_destination_spec(pg_temp.spec(pg_temp.action('{"request": {"method": "POST", "url": "ftp://x.example/"}}')));
SELECT cdi_check_destination_spec(pg_temp.spec(pg_temp.action('{"request": {"method": "POST", "url": "https://x.example/", "headers": {"X A": "b"}}}')));
SELECT cdi_check_destination_spec(pg_temp.spec(pg_temp.action('{"request": {"method": "POST", "url": "https://x.example/", "idempotency": {"header": "X A"}}}')));
SELECT cdi_check_destination_spec(pg_temp.spec(pg_temp.action('{"batch": {"max_items": 10001}}')));
SELECT cdi_check_destination_spec(pg_temp.spec(pg_temp.action('{"batch": {"max_wait": "2d"}}')));
SELECT cdi_check_destination_spec(pg_temp.spec('{"egress": {"allow_hosts": ["*-a.example"]}}' || pg_temp.action('{}')));
SELECT cdi_check_destination_spec(pg_temp.spec('{"egress": {"allow_hosts": ["https://a.example"]}}' || pg_temp.action('{}')));
SELECT cdi_check_destination_spec(pg_temp.spec('{"settings": {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1, "maximum": 5, "default": 9}}}}' || pg_temp.action('{}')));
SELECT cdi_check_destination_spec(pg_temp.spec('{"settings": {"type": "object", "properties": {"n": {"type": "string", "enum": ["a"], "default": "b"}}}}' || pg_temp.action('{}')));
SELECT cdi_check_destination_spec(pg_temp.spec(pg_temp.action('{"map": {"x": {"@fn": ["format_time", 0, "%y"]}}}')));
SELECT cdi_check_destination_spec(pg_temp.spec(pg_temp.action('{"map": {"x": {"@fn": ["e164", "1", "DE"]}}}')));
SELECT cdi_check_destination_spec(pg_temp.spec(pg_temp.action('{"map": {"x": {"@fn": ["truncate", "1", -1]}}}')));
SELECT cdi_check_destination_spec(pg_temp.spec(pg_temp.action('{"response": {"rules": [{"class": "ok", "rows": {"each": "$.a", "index": "@", "match": {"value": "@", "to": "mapped.x"}}}]}}')));

-- What is not understood is refused
SELECT cdi_check_destination_spec(pg_temp.spec('{"auth": {"type": "oauth2", "grant": "password", "token_url": "https://x.example/"}}' || pg_temp.action('{}')));
SELECT cdi_check_destination_spec(pg_temp.spec('{"auth": {"type": "sigv4", "service": "s3"}}' || pg_temp.action('{}')));
SELECT cdi_check_destination_spec(pg_temp.spec('{"limits": {"rate": {"requests": 10, "per": "often"}}}' || pg_temp.action('{}')));
SELECT cdi_check_destination_spec(pg_temp.spec(pg_temp.action('{"then": [{"request": {"method": "GET", "url": "https://x.example/"}}]}')));
SELECT cdi_check_destination_spec(pg_temp.spec(pg_temp.action('{"poll": {"every": "1s", "until": {"magic": 1}}}')));
SELECT cdi_check_destination_spec(pg_temp.spec(pg_temp.action('{"response": {"rules": [{"class": "ok", "rows": {"each": "$.a", "index": {"@fn": ["extract", {"@path": "@"}, "(("]}}}]}}')));
SELECT cdi_check_destination_spec(pg_temp.spec(pg_temp.action('{"map": {"x": {"@path": "header.X"}}}')));
SELECT cdi_check_destination_spec(pg_temp.spec(pg_temp.action('{"request": {"method": "POST", "url": "https://x.example/", "body": {"format": "csv"}}}')));
SELECT cdi_check_destination_spec(pg_temp.spec(pg_temp.action('{"map": {"x": {"@member": ["$"]}}}')));
SELECT cdi_check_destination_spec(pg_temp.spec(pg_temp.action('{"require": [1]}')));
SELECT cdi_check_destination_spec(pg_temp.spec(pg_temp.action('{"batch": {"max_bytes": {"@path": "$.n"}}}')));
SELECT cdi_check_destination_spec(pg_temp.spec(pg_temp.action('{"extract": {"x": {"@path": "@.id"}}}')));
SELECT cdi_check_destination_spec(pg_temp.spec(pg_temp.action('{"request": {"method": "POST", "url": "https://x.example/", "body": {"format": "csv", "columns": "all"}}}')));
SELECT cdi_check_destination_spec(pg_temp.spec(pg_temp.action('{"request": {"method": "POST", "url": "https://x.example/", "body": {"format": "json", "template": {"@rows": []}}}}')));
