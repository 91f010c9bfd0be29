-- Signed webhooks and stored secrets (src/collect/webhook*.c, src/base/secret_store.c).

CREATE OR REPLACE FUNCTION cdi._secret_entered()
RETURNS trigger
LANGUAGE C
AS 'MODULE_PATHNAME', 'cdi_secret_entered';
COMMENT ON FUNCTION cdi._secret_entered() IS 'Internal: encrypts what is entered through cdi.secret_entry.';

CREATE OR REPLACE TRIGGER entered INSTEAD OF INSERT ON cdi.secret_entry
    FOR EACH ROW EXECUTE FUNCTION cdi._secret_entered();

-- How the vendors sign, and what of their payloads becomes what of an event.
CREATE OR REPLACE FUNCTION cdi._webhook_preset(scheme text, OUT settings jsonb, OUT mapping jsonb)
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT p.settings::jsonb, p.mapping::jsonb
FROM (VALUES
    ('stripe', '{"header": "Stripe-Signature", "pairs": true, "signed": "{timestamp}.{body}", "tolerance": 300}',
     '{"type": "track", "event": "$.type", "messageId": "$.id", "timestamp": {"epoch": "seconds", "of": "$.created"},
       "userId": {"any": ["$.data.object.client_reference_id", "$.data.object.metadata.user_id", "$.data.object.metadata.userId"]},
       "anonymousId": {"concat": ["stripe:", {"any": ["$.data.object.customer", "$.data.object.id", "$.id"]}]},
       "traits": {"email": {"any": ["$.data.object.customer_details.email", "$.data.object.customer_email", "$.data.object.receipt_email", "$.data.object.billing_details.email", "$.data.object.email"]}},
       "properties": {"any": ["$.data.object", "$"]},
       "context": {"library": {"name": "stripe", "version": "$.api_version"}, "livemode": "$.livemode"}}'),
    ('shopify', '{"header": "X-Shopify-Hmac-Sha256", "encoding": "base64"}',
     '{"type": "track", "event": "header:X-Shopify-Topic", "messageId": "header:X-Shopify-Webhook-Id",
       "timestamp": {"any": ["header:X-Shopify-Triggered-At", "$.updated_at", "$.created_at"]},
       "anonymousId": {"concat": ["shopify:", {"any": ["$.customer.id", "$.user_id", "$.id", "$.token", "header:X-Shopify-Webhook-Id"]}]},
       "traits": {"email": {"any": ["$.customer.email", "$.email", "$.contact_email"]}},
       "properties": "$",
       "context": {"library": {"name": "shopify", "version": "header:X-Shopify-API-Version"}, "shop": "header:X-Shopify-Shop-Domain"}}'),
    ('github', '{"header": "X-Hub-Signature-256", "prefix": "sha256="}',
     '{"type": "track", "event": {"any": [{"concat": ["header:X-GitHub-Event", ".", "$.action"]}, "header:X-GitHub-Event"]}, "messageId": "header:X-GitHub-Delivery",
       "anonymousId": {"concat": ["github:", {"any": ["$.sender.id", "$.repository.id", "header:X-GitHub-Delivery"]}]},
       "properties": "$",
       "context": {"library": {"name": "github"}}}'),
    ('standard', '{"header": "webhook-signature", "prefix": "v1,", "encoding": "base64", "secret_encoding": "base64",
       "signed": "{header:webhook-id}.{timestamp}.{body}", "timestamp_header": "webhook-timestamp", "tolerance": 300}',
     '{"type": "track", "event": {"any": ["$.type", "$.event"]}, "messageId": {"any": ["header:webhook-id", "header:svix-id"]}, "timestamp": "$.timestamp",
       "userId": {"any": ["$.data.user_id", "$.data.userId"]},
       "anonymousId": {"concat": ["webhook:", {"any": ["$.data.id", "header:webhook-id", "header:svix-id"]}]},
       "properties": {"any": ["$.data", "$"]}}'),
    ('hmac', '{"header": "X-Signature-256", "prefix": "sha256="}',
     '{"type": {"any": ["$.type", "track"]}, "event": {"any": ["$.event", "$.name"]}, "messageId": {"any": ["$.messageId", "$.message_id", "$.id"]},
       "userId": {"any": ["$.userId", "$.user_id"]}, "anonymousId": {"any": ["$.anonymousId", "$.anonymous_id"]},
       "timestamp": "$.timestamp", "traits": "$.traits", "context": "$.context",
       "properties": {"any": ["$.properties", "$"]}}')
) AS p (scheme, settings, mapping)
WHERE p.scheme = _webhook_preset.scheme
$$;
COMMENT ON FUNCTION cdi._webhook_preset(text) IS 'Internal: settings and mapping of a scheme.';

CREATE OR REPLACE FUNCTION cdi._check_webhook(secrets text[], settings jsonb, mapping jsonb)
RETURNS void
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    rule jsonb;
    unknown text;
BEGIN
    IF cardinality(secrets) = 0 OR EXISTS (SELECT FROM unnest(secrets) s WHERE s IS NULL OR s !~ '^(file|env|secret):.') THEN
        RAISE EXCEPTION 'secrets of a webhook are references'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Write file:NAME, env:CDI_NAME or secret:NAME; the value itself would be in the log.';
    END IF;
    SELECT string_agg(quote_literal(k), ', ') INTO unknown FROM jsonb_object_keys(settings) k
    WHERE k NOT IN ('header', 'prefix', 'encoding', 'algorithm', 'pairs', 'signed', 'timestamp_header', 'tolerance', 'secret_encoding');
    IF unknown IS NOT NULL THEN
        RAISE EXCEPTION 'a webhook has no setting %', unknown
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'There are header, prefix, encoding, algorithm, pairs, signed, timestamp_header, tolerance and secret_encoding.';
    END IF;
    IF coalesce(settings ->> 'header', '') = '' OR coalesce(settings ->> 'encoding', 'hex') NOT IN ('hex', 'base64')
        OR coalesce(settings ->> 'algorithm', 'sha256') NOT IN ('sha1', 'sha256', 'sha512')
        OR coalesce(settings ->> 'secret_encoding', 'text') NOT IN ('text', 'base64')
        OR position('{body}' IN coalesce(settings ->> 'signed', '{body}')) = 0 THEN
        RAISE EXCEPTION 'settings of a webhook need "header", an encoding hex or base64, an algorithm sha1, sha256 or sha512, a secret_encoding text or base64, and {body} in what is signed'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    FOR rule IN SELECT r FROM jsonb_array_elements(CASE jsonb_typeof(mapping) WHEN 'array' THEN mapping ELSE jsonb_build_array(mapping) END) r LOOP
        IF jsonb_typeof(rule) <> 'object' OR NOT rule ? 'type' THEN
            RAISE EXCEPTION 'each rule of a mapping is an object with "type" and the other members of the call'
                USING ERRCODE = 'invalid_parameter_value', DETAIL = format('The rule is %s.', rule);
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION cdi._check_webhook(text[], jsonb, jsonb) IS 'Internal: raises 22023 where they are wrong.';

CREATE OR REPLACE FUNCTION cdi_create_webhook(source text, scheme text, secrets text[], mapping jsonb DEFAULT NULL, settings jsonb DEFAULT NULL)
RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    id integer := cdi._require_source(source);
    preset record;
BEGIN
    SELECT * INTO preset FROM cdi._webhook_preset(scheme);
    IF preset.settings IS NULL THEN
        RAISE EXCEPTION 'no scheme "%" of webhooks is known', scheme
            USING ERRCODE = 'invalid_parameter_value', HINT = 'There are stripe, shopify, github, standard and hmac.';
    END IF;
    settings := preset.settings || coalesce(settings, '{}');
    mapping := coalesce(mapping, preset.mapping);
    PERFORM cdi._check_webhook(secrets, settings, mapping);
    INSERT INTO cdi.webhooks AS w (source_id, scheme, secrets, settings, mapping)
    VALUES (id, scheme, secrets, settings, mapping)
    ON CONFLICT (source_id) DO UPDATE
    SET scheme = excluded.scheme, secrets = excluded.secrets, settings = excluded.settings, mapping = excluded.mapping;
    RETURN '/hook/' || source;
END
$$;
COMMENT ON FUNCTION cdi_create_webhook(text, text, text[], jsonb, jsonb) IS 'Lets a source take signed webhooks (stripe, shopify, github, standard, or hmac with settings of its own) and returns the path to send them to. secrets are references, any of which may have signed; mapping says what of the payload becomes what of an event. Called again it replaces all of this.';

CREATE OR REPLACE FUNCTION cdi_drop_webhook(source text)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    DELETE FROM cdi.webhooks w WHERE w.source_id = cdi._require_source(source);
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION cdi_drop_webhook(text) IS 'Ends the taking of webhooks for a source. True if there was one.';

CREATE OR REPLACE FUNCTION cdi_drop_secret(name text)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    DELETE FROM cdi.secrets s WHERE s.name = cdi_drop_secret.name;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION cdi_drop_secret(text) IS 'Forgets a secret that was entered through cdi.secret_entry. True if there was one.';
