-- What a user would write instead of cdi_ingest(): a table with the same
-- columns, filled from a staging table.  The staging table is temporary, which
-- is the fastest kind: nothing of it has to survive the transaction.
DROP SCHEMA IF EXISTS hand CASCADE;
CREATE SCHEMA hand;
CREATE TABLE hand.events (LIKE cdi.events);
ALTER TABLE hand.events ALTER position ADD GENERATED ALWAYS AS IDENTITY;
ALTER TABLE hand.events ADD UNIQUE (source_id, message_id);
CREATE INDEX ON hand.events USING brin ("timestamp", position) WITH (pages_per_range = 32);
CREATE TABLE hand.documents (doc jsonb);

-- Keys of events and subjects are hashes here as there.  Campaign parameters
-- come from what the SDK parsed or else from the page's address.
CREATE VIEW hand.insert_statement AS SELECT $$
INSERT INTO hand.events (received_at, "timestamp", original_timestamp, sent_at, event_id, subject,
    source_id, type, event, category, message_id, user_id, anonymous_id, group_id, previous_id,
    campaign_source, campaign_medium, campaign_name, campaign_term, campaign_content,
    click_id_type, referrer_host, page_host, properties, traits, context, extra)
SELECT now(), coalesce(now() - (sent_at - original_timestamp), original_timestamp, now()), original_timestamp, sent_at,
       md5('1 ' || (doc->>'messageId'))::uuid,
       md5(coalesce(doc->>'userId', lower(btrim(coalesce(doc #>> '{traits,email}', doc #>> '{context,traits,email}'))), doc->>'anonymousId'))::uuid,
       1, doc->>'type', coalesce(doc->>'event', doc->>'name'), doc->>'category', doc->>'messageId',
       doc->>'userId', doc->>'anonymousId', doc->>'groupId', doc->>'previousId',
       coalesce(campaign->>'source', substring(query from '[?&]utm_source=([^&#]+)')),
       coalesce(campaign->>'medium', substring(query from '[?&]utm_medium=([^&#]+)')),
       coalesce(campaign->>'name', substring(query from '[?&]utm_campaign=([^&#]+)')),
       coalesce(campaign->>'term', substring(query from '[?&]utm_term=([^&#]+)')),
       coalesce(campaign->>'content', substring(query from '[?&]utm_content=([^&#]+)')),
       substring(query from '[?&](gclid|gbraid|wbraid|dclid|fbclid|msclkid|ttclid|twclid|li_fat_id|sccid|ScCid|rdt_cid|epik|yclid|irclickid|awc)=[^&#]'),
       lower(substring(doc #>> '{context,page,referrer}' from '://([^/:?#]+)')),
       lower(substring(url from '://([^/:?#]+)')),
       doc->'properties', doc->'traits', doc->'context',
       nullif(doc - '{type,event,name,category,messageId,userId,anonymousId,groupId,previousId,timestamp,originalTimestamp,sentAt,properties,traits,context}'::text[], '{}')
FROM staging,
     LATERAL (SELECT coalesce(doc->>'originalTimestamp', doc->>'timestamp')::timestamptz AS original_timestamp,
                     (doc->>'sentAt')::timestamptz AS sent_at,
                     doc #> '{context,campaign}' AS campaign,
                     doc #>> '{context,page,url}' AS url OFFSET 0) fields,
     LATERAL (SELECT CASE WHEN url LIKE '%?%' THEN url END AS query OFFSET 0) address
ON CONFLICT DO NOTHING
$$ AS sql;
