-- Settings of a source, and what it has sent.
SELECT cdi_create_source('limited') LIKE 'cdi\_%' AS key;

-- As it was created: no limits.
SELECT rate_limit, rate_burst, max_body, allowed_origins, keep_original, client_address
FROM cdi.sources WHERE name = 'limited';

-- Only what is named changes.
SELECT cdi_alter_source('limited', '{"rate_limit": 2.5, "rate_burst": 100, "max_body": 64,
    "allowed_origins": ["https://Shop.example", "http://localhost:3000", "https://*.shop.example"]}');
SELECT cdi_alter_source('limited', '{"keep_original": true, "client_address": "never", "rate_burst": null}');
SELECT rate_limit, rate_burst, max_body, allowed_origins, keep_original, client_address
FROM cdi.sources WHERE name = 'limited';

-- null is the default again; an empty list of origins lets no page send.
SELECT cdi_alter_source('limited', '{"rate_limit": null, "max_body": null, "allowed_origins": [],
    "keep_original": null, "client_address": null}');
SELECT rate_limit, rate_burst, max_body, allowed_origins, keep_original, client_address
FROM cdi.sources WHERE name = 'limited';
SELECT cdi_alter_source('limited', '{"allowed_origins": null}');
SELECT cdi_alter_source('limited', '{}');
SELECT allowed_origins IS NULL AS all_origins FROM cdi.sources WHERE name = 'limited';

-- What is refused changes nothing, also not what stands beside it.
\set SHOW_CONTEXT never
CREATE TEMP TABLE refused (id int GENERATED ALWAYS AS IDENTITY, settings jsonb);
INSERT INTO refused (settings) VALUES
    ('{"max_body": 1, "colour": "red"}'), ('[]'), (NULL),
    ('{"max_body": 1, "rate_limit": 0}'), ('{"rate_limit": "10"}'), ('{"rate_limit": 1e400}'), ('{"rate_limit": -1}'),
    ('{"rate_burst": 0}'), ('{"rate_burst": 1.5}'), ('{"rate_burst": 2147483648}'),
    ('{"max_body": 0}'), ('{"max_body": true}'),
    ('{"allowed_origins": "https://shop.example"}'), ('{"allowed_origins": ["shop.example"]}'),
    ('{"allowed_origins": [null]}'), ('{"allowed_origins": ["https://shop.example/"]}'), ('{"allowed_origins": ["https://*.*.example"]}'),
    ('{"allowed_origins": ["https://a.example, https://b.example"]}'),
    ('{"keep_original": "yes"}'), ('{"client_address": "sometimes"}'), ('{"client_address": 1}');
DO $$
DECLARE
    r record;
    hint text;
BEGIN
    FOR r IN SELECT settings FROM refused ORDER BY id LOOP
        BEGIN
            PERFORM cdi_alter_source('limited', r.settings);
            RAISE NOTICE '% was taken', r.settings;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
            RAISE INFO '%: %', SQLSTATE, concat_ws('; ', SQLERRM, nullif(hint, ''));
        END;
    END LOOP;
END
$$;
SELECT max_body FROM cdi.sources WHERE name = 'limited';
SELECT cdi_alter_source('nobody', '{}');

-- Whole numbers may be written as they like.
SELECT cdi_alter_source('limited', '{"rate_burst": 1e2, "max_body": 2.0}');
SELECT rate_burst, max_body FROM cdi.sources WHERE name = 'limited';

-- What came in through SQL counts as events, not as requests.
SELECT stored, duplicate, failed FROM cdi_ingest('[
    {"type": "track", "event": "A", "userId": "u1", "messageId": "s1"},
    {"type": "track", "event": "A", "userId": "u1", "messageId": "s1"},
    {"type": "track", "event": "A"}]', 'limited');
SELECT source, received, stored, duplicate, failed, withheld, requests, body_bytes,
       accepted, refused, rate_limited, too_large, unavailable, last_request_at, since
FROM cdi.stat_sources WHERE source = 'limited';
SELECT cdi_disable_source('limited');
