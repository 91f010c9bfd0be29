-- Channel rules as data: the GA4 default channel group against its definition
-- in plain SQL, versions, sites, tests of conditions, and what is refused.
SET client_min_messages = warning;

-- GA4, "Default channel group" (answer 9756891), channels for manual traffic,
-- written down once more as SQL.  The sites are ones that Google's lists have, too.
CREATE TEMP TABLE sources (source text, kind text);
INSERT INTO sources VALUES ('(direct)', NULL), ('google', 'search'), ('bing', 'search'), ('duckduckgo', 'search'), ('Facebook', 'social'), ('linkedin', 'social'),
    ('youtube', 'video'), ('vimeo', 'video'), ('ebay', 'shopping'), ('ETSY', 'shopping'), ('email', NULL), ('e mail', NULL), ('sms', NULL), ('firebase', NULL),
    ('partner', NULL), ('newsletter', NULL), ('(not set)', NULL);
CREATE TEMP TABLE media (medium text);
INSERT INTO media VALUES ('(none)'), ('(not set)'), ('cpc'), ('CPC'), ('ppc'), ('ppcx'), ('retargeting'), ('retargeting2'), ('paid'), ('paid-social'), ('unpaid'), ('xcpx'),
    ('display'), ('banner'), ('expandable'), ('interstitial'), ('cpm'), ('Display'), ('displays'), ('social'), ('social-network'), ('social-media'), ('sm'),
    ('social network'), ('social media'), ('video'), ('my-video-ad'), ('organic'), ('referral'), ('app'), ('link'), ('email'), ('e-mail'), ('e_mail'), ('e mail'),
    ('affiliate'), ('audio'), ('sms'), ('webpush'), ('pushed'), ('mobile'), ('in-mobile-x'), ('notification'), ('notifications'), ('ai-assistant'), ('ai-assistants'), ('other');
CREATE TEMP TABLE names (name text);
INSERT INTO names VALUES (NULL), ('spring'), ('spring-shop'), ('workshop'), ('bishop'), ('eshop'), ('SHOP now'), ('shopping'), ('xyzshoppinglist'), ('Cross-Network'),
    ('pmax cross-network de');
CREATE TEMP TABLE truth AS
SELECT s.source, m.medium, n.name, cdi_channel(s.source, m.medium, NULL, NULL, NULL, n.name) AS got,
    CASE
        WHEN s.source = '(direct)' AND m.medium IN ('(not set)', '(none)') THEN 'direct'
        WHEN n.name ILIKE '%cross-network%' THEN 'cross_network'
        WHEN (s.kind = 'shopping' OR n.name ~* '^(.*(([^a-df-z]|^)shop|shopping).*)$') AND m.medium ~* '^(.*cp.*|ppc|retargeting|paid.*)$' THEN 'paid_shopping'
        WHEN s.kind = 'search' AND m.medium ~* '^(.*cp.*|ppc|retargeting|paid.*)$' THEN 'paid_search'
        WHEN s.kind = 'social' AND m.medium ~* '^(.*cp.*|ppc|retargeting|paid.*)$' THEN 'paid_social'
        WHEN s.kind = 'video' AND m.medium ~* '^(.*cp.*|ppc|retargeting|paid.*)$' THEN 'paid_video'
        WHEN lower(m.medium) IN ('display', 'banner', 'expandable', 'interstitial', 'cpm') THEN 'display'
        WHEN m.medium ~* '^(.*cp.*|ppc|retargeting|paid.*)$' THEN 'paid_other'
        WHEN m.medium = 'ai-assistant' THEN 'ai_assistant'
        WHEN s.kind = 'shopping' OR n.name ~* '^(.*(([^a-df-z]|^)shop|shopping).*)$' THEN 'organic_shopping'
        WHEN s.kind = 'social' OR m.medium IN ('social', 'social-network', 'social-media', 'sm', 'social network', 'social media') THEN 'organic_social'
        WHEN s.kind = 'video' OR m.medium ~* '^(.*video.*)$' THEN 'organic_video'
        WHEN s.kind = 'search' OR m.medium = 'organic' THEN 'organic_search'
        WHEN m.medium IN ('referral', 'app', 'link') THEN 'referral'
        WHEN s.source ~ '^(email|e-mail|e_mail|e mail)$' OR m.medium ~ '^(email|e-mail|e_mail|e mail)$' THEN 'email'
        WHEN m.medium = 'affiliate' THEN 'affiliate'
        WHEN m.medium = 'audio' THEN 'audio'
        WHEN s.source = 'sms' OR m.medium = 'sms' THEN 'sms'
        WHEN m.medium LIKE '%push' OR m.medium LIKE '%mobile%' OR m.medium LIKE '%notification%' OR s.source = 'firebase' THEN 'push'
        ELSE 'unassigned'
    END AS ga4
FROM sources s, media m, names n;
SELECT count(*), count(DISTINCT ga4) AS channels, count(*) FILTER (WHERE got IS DISTINCT FROM ga4) AS different FROM truth;
SELECT * FROM truth WHERE got IS DISTINCT FROM ga4 LIMIT 5;
-- Which of the channels that come with cdi it cannot give.
SELECT channel FROM cdi.channels EXCEPT SELECT ga4 FROM truth;

-- Every channel of the rules has a title, and every click id that the pipeline knows has a channel.
SELECT count(*) AS rules, count(DISTINCT version) AS versions, count(note) AS notes FROM cdi.channel_rules WHERE channel_group = 'default';
SELECT p.name, c.click_id_type, cdi_channel(NULL, NULL, c.click_id_type, NULL, NULL) AS channel
FROM unnest('{gclid,GBRAID,wbraid,dclid,gclsrc,gad_source,gad_campaignid,msclkid,yclid,bd_vid,ttclid,twclid,li_fat_id,rdt_cid,ScCid,epik,qclid,ndclid,ctwa_clid,rb_clickid,ldtag_cl,tblci,obclid,dicbo,vmcid,irclickid,irclid,cjevent,awc,sscid,ranSiteID,tduid,admitad_uid,fbclid,igshid,igsh,ysclid,srsltid,mc_eid,mc_cid,_hsenc,_hsmi,mkt_tok,_kx,ml_subscriber,vero_id,bsft_clkid,elqTrackId,dm_i,oly_enc_id,ko_click_id,no_click_id}'::text[]) AS p (name),
     cdi_campaign('https://shop.example/?' || p.name || '=x') c
WHERE c.click_id_type IS DISTINCT FROM lower(p.name) OR cdi_channel(NULL, NULL, c.click_id_type, NULL, NULL) IN ('direct', 'unassigned');

-- A group of one's own: fields, tests and combinations.
SELECT cdi_create_channel('influencer'), cdi_create_channel('store', 'Store visit');
SELECT cdi_set_channel_rules('test', '[
    {"channel": "email", "when": {"source": "Mail"}, "note": "texts are compared in lower case"},
    {"channel": "sms", "when": {"medium": ["text", null], "term": {"is": "x"}}},
    {"channel": "audio", "when": {"campaign": {"starts_with": "pod", "ends_with": ["cast", "casts"]}}},
    {"channel": "push", "when": {"content": {"contains": "push"}, "not": {"any": [{"source": "a"}, {"source": "b"}]}}},
    {"channel": "influencer", "when": {"all": [{"campaign": {"matches": "\\m(inf|kol)\\d+"}}, {"source": {"matches": "^.{3}$"}}]}},
    {"channel": "referral", "when": {"referrer": {"ends_with": ".example"}}},
    {"channel": "store", "when": {"page": "shop.example", "click_id": null, "referrer_site": null}}
]') AS version;
CREATE TEMP TABLE cases (source text, medium text, click text, referrer text, page text, campaign text, term text, content text, channel text);
INSERT INTO cases VALUES
('MAIL', NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'email'),
(' mail ', NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'email'),
('mails', NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'unassigned'),
(NULL, NULL, NULL, NULL, NULL, NULL, 'X', NULL, 'sms'),
(NULL, '', NULL, NULL, NULL, NULL, 'x', NULL, 'sms'),
(NULL, 'text', NULL, NULL, NULL, NULL, 'x', NULL, 'sms'),
(NULL, 'texts', NULL, NULL, NULL, NULL, 'x', NULL, 'unassigned'),
(NULL, NULL, NULL, NULL, NULL, 'PodCasts', NULL, NULL, 'audio'),
(NULL, NULL, NULL, NULL, NULL, 'pocast', NULL, NULL, 'unassigned'),
(NULL, NULL, NULL, NULL, NULL, 'pod', NULL, NULL, 'unassigned'),
('c', NULL, NULL, NULL, NULL, NULL, NULL, 'a push b', 'push'),
('b', NULL, NULL, NULL, NULL, NULL, NULL, 'a push b', 'unassigned'),
('abc', NULL, NULL, NULL, NULL, 'x INF12', NULL, NULL, 'influencer'),
('äöü', NULL, NULL, NULL, NULL, 'kol1', NULL, NULL, 'influencer'),
('abcd', NULL, NULL, NULL, NULL, 'kol1', NULL, NULL, 'unassigned'),
('abc', NULL, NULL, NULL, NULL, 'xkol1', NULL, NULL, 'unassigned'),
(NULL, NULL, NULL, 'www.blog.example', NULL, NULL, NULL, NULL, 'referral'),
(NULL, NULL, NULL, 'blog.example', 'my.blog.example', NULL, NULL, NULL, 'unassigned'),
(NULL, NULL, NULL, NULL, 'www.shop.example', NULL, NULL, NULL, 'store'),
(NULL, NULL, 'gclid', NULL, 'shop.example', NULL, NULL, NULL, 'unassigned'),
(repeat('m', 100000), NULL, NULL, NULL, 'shop.example', 'podcast', NULL, NULL, 'audio'),
(NULL, repeat('x', 600), NULL, NULL, NULL, NULL, NULL, NULL, 'unassigned');
SELECT left(source, 10) AS source, left(medium, 10) AS medium, campaign, channel, got
FROM (SELECT c.*, cdi_channel(source, medium, click, referrer, page, campaign, term, content, 'test') AS got FROM cases c, generate_series(1, 2)) c
WHERE got IS DISTINCT FROM channel;
-- What is read back is what was set.
SELECT cdi_channel_rules('test') -> 0, cdi_channel_rules('test', 1) = cdi_channel_rules('test') AS same, cdi_channel_rules('no such') IS NULL AS none;

-- Versions: the highest is the current one, the others stay.
SELECT cdi_set_channel_rules('test', '[{"channel": "store"}]') AS version;
SELECT cdi_channel('mail', NULL, NULL, NULL, NULL, channel_group => 'test') AS current,
       cdi_channel('mail', NULL, NULL, NULL, NULL, channel_group => 'test', version => 1) AS first,
       cdi_channel('mail', NULL, NULL, NULL, NULL, channel_group => g, version => v) AS asked
FROM (VALUES ('test', 2), ('default', 1), ('test', NULL), ('test', 1)) v (g, v);
UPDATE cdi.channel_rules SET channel = 'email' WHERE channel_group = 'test';
DELETE FROM cdi.channel_rules;
TRUNCATE cdi.channel_rules;
-- A rule in front of those of the default group; a rolled back version leaves nothing behind.
BEGIN;
SELECT cdi_set_channel_rules('default', '[{"channel": "influencer", "when": {"source": "google"}}]' || cdi_channel_rules()) AS version;
SELECT cdi_channel('google', 'cpc', NULL, NULL, NULL) AS google, cdi_channel('bing', 'cpc', NULL, NULL, NULL) AS bing, jsonb_array_length(cdi_channel_rules()) AS rules;
ROLLBACK;
SELECT cdi_channel('google', 'cpc', NULL, NULL, NULL) AS google, jsonb_array_length(cdi_channel_rules()) AS rules;
BEGIN;
SAVEPOINT s;
SELECT cdi_set_channel_rules('default', '[{"channel": "influencer"}]') AS version;
SELECT cdi_channel('google', 'cpc', NULL, NULL, NULL) AS google;
ROLLBACK TO s;
SELECT cdi_channel('google', 'cpc', NULL, NULL, NULL) AS google;
COMMIT;
-- Rules that change while a statement runs count from then on.
DO $$
DECLARE
    channels text[] := '{}';
BEGIN
    FOR i IN 1..3 LOOP
        PERFORM cdi_set_channel_rules('loop', jsonb_build_array(jsonb_build_object('channel', (ARRAY['sms', 'audio', 'push'])[i])));
        channels := channels || cdi_channel(NULL, NULL, NULL, NULL, NULL, channel_group => 'loop');
    END LOOP;
    RAISE WARNING '%', channels;
END
$$;

-- Sites
SELECT cdi_channel(NULL, NULL, NULL, 'chat.answers.example', 'shop.example') AS before;
SELECT cdi_set_channel_site('answers.example', 'ai'), cdi_set_channel_site('WWW.Mytube.example', 'video'), cdi_set_channel_site('mysearch', 'search', any_tld => true),
       cdi_set_channel_site('google', 'other');
SELECT cdi_set_channel_rules('sites', '[{"channel": "influencer", "when": {"any": [{"referrer_site": "ai"}, {"source_site": "ai"}]}}]' || cdi_channel_rules()) AS version;
SELECT cdi_channel(NULL, NULL, NULL, 'chat.answers.example', 'shop.example', channel_group => 'sites') AS ai,
       cdi_channel('answers.example', 'referral', NULL, NULL, NULL, channel_group => 'sites') AS ai_source,
       cdi_channel(NULL, NULL, NULL, 'mytube.example', 'shop.example') AS video, cdi_channel(NULL, NULL, NULL, 'www.mysearch.co.uk', 'shop.example') AS search,
       cdi_channel(NULL, NULL, NULL, 'www.google.com', 'shop.example') AS other;
SELECT cdi_set_channel_site('answers.example', NULL), cdi_set_channel_site('mytube.example', NULL), cdi_set_channel_site('mysearch', NULL), cdi_set_channel_site('google', NULL);
SELECT cdi_channel(NULL, NULL, NULL, 'www.google.com', 'shop.example') AS google, cdi_channel(NULL, NULL, NULL, 'mytube.example', 'shop.example') AS mytube;
SELECT cdi_set_channel_site('https://shop.example/', 'video');
SELECT cdi_set_channel_site('shop.example', 'Video Site');

-- What is refused, with its place.
CREATE FUNCTION pg_temp.refused(rules jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    detail text;
    hint text;
BEGIN
    PERFORM cdi_set_channel_rules('refused', rules);
    RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN concat_ws(E'\n', SQLSTATE || ' ' || SQLERRM, nullif(detail, ''), nullif(hint, ''));
END
$$;
SELECT pg_temp.refused(NULL) AS nothing, pg_temp.refused('{}') AS object, pg_temp.refused('[]') AS empty \gx
SELECT pg_temp.refused('[{"channel": "sms"}, "sms"]') AS text, pg_temp.refused('[{"when": {}}]') AS no_channel, pg_temp.refused('[{"channel": "sms", "if": {}}]') AS member \gx
SELECT pg_temp.refused('[{"channel": "sms"}, {"channel": "paid_serach"}]') ~ '^ZC311 channel "paid_serach" of rule 2 does not exist' AS channel;
SELECT pg_temp.refused('[{"channel": "sms"}, {"channel": "sms", "when": {"any": [{"source": "a"}, {"medium": {"matches": "a(b"}}]}}]') AS regex \gx
SELECT pg_temp.refused('[{"channel": "sms", "when": {"sorce": "a"}}]') AS field, pg_temp.refused('[{"channel": "sms", "when": {"source": {"like": "a"}}}]') AS test,
       pg_temp.refused('[{"channel": "sms", "when": {"source": 1}}]') AS number, pg_temp.refused('[{"channel": "sms", "when": {"source": ["a", true]}}]') AS boolean,
       pg_temp.refused('[{"channel": "sms", "when": {"source": []}}]') AS list, pg_temp.refused('[{"channel": "sms", "when": {"source": {"contains": null}}}]') AS null_part,
       pg_temp.refused('[{"channel": "sms", "when": {"source": " "}}]') AS blank, pg_temp.refused('[{"channel": "sms", "when": {"source": {}}}]') AS no_test,
       pg_temp.refused('[{"channel": "sms", "when": {"source_site": "serach"}}]') AS kind, pg_temp.refused('[{"channel": "sms", "when": {"any": {"source": "a"}}}]') AS any_object,
       pg_temp.refused('[{"channel": "sms", "when": {"all": [{"not": ["a"]}]}}]') AS not_list, pg_temp.refused('[{"channel": "sms", "when": [1]}]') AS list_condition \gx
SELECT count(*) AS rules FROM cdi.channel_rules WHERE channel_group = 'refused';
SELECT cdi_channel('a', 'b', NULL, NULL, NULL, channel_group => 'no such');
SELECT cdi_channel('a', 'b', NULL, NULL, NULL, version => 99);
SELECT cdi_channel('a', 'b', NULL, NULL, NULL, version => 0);
SELECT cdi_channel('a', 'b', NULL, NULL, NULL, channel_group => NULL);
SELECT cdi_create_channel('Store visit');
SELECT cdi_create_channel('store');

-- In parallel plans, and over more different traffic than is remembered.
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
CREATE TABLE traffic AS SELECT 's' || i AS source, (ARRAY['cpc', 'email', 'x'])[i % 3 + 1] AS medium FROM generate_series(1, 20000) i;
ANALYZE traffic;
EXPLAIN (COSTS OFF) SELECT cdi_channel(source, medium, NULL, NULL, NULL), count(*) FROM traffic GROUP BY 1;
SELECT cdi_channel(source, medium, NULL, NULL, NULL) AS channel, count(*) FROM traffic GROUP BY 1 ORDER BY 1;
DROP TABLE traffic;

-- Who may do what: a reader asks, an administrator declares, others neither.
CREATE ROLE cdi_test_channel_reader;
CREATE ROLE cdi_test_channel_admin;
SELECT cdi_grant_reader('cdi_test_channel_reader'), cdi_grant_admin('cdi_test_channel_admin');
SET ROLE cdi_test_channel_reader;
SELECT cdi_channel('google', 'cpc', NULL, NULL, NULL), (SELECT count(*) > 0 FROM cdi.touchpoints) IS NOT NULL AS touchpoints, jsonb_array_length(cdi_channel_rules()) AS rules,
       (SELECT click_id FROM cdi_campaign('https://shop.example/?gclid=x'));
SELECT cdi_set_channel_rules('mine', '[{"channel": "sms"}]');
SELECT cdi_set_sessions();
INSERT INTO cdi.channel_sites VALUES ('mine.example', 'video');
SET ROLE cdi_test_channel_admin;
SELECT cdi_create_channel('by_admin'), cdi_set_channel_rules('by_admin', '[{"channel": "by_admin"}]') AS version, cdi_set_channel_site('admin.example', 'video'),
       cdi_set_sessions(gap => '30 minutes'), cdi_create_touch_type('by_admin', 'By Admin', 'offline', channel => 'by_admin'), cdi_drop_touch_type('by_admin');
DELETE FROM cdi.channel_rules WHERE channel_group = 'by_admin';
DELETE FROM cdi.channels WHERE channel = 'by_admin';
RESET ROLE;
CREATE ROLE cdi_test_nobody;
SET ROLE cdi_test_nobody;
SELECT cdi_channel('google', 'cpc', NULL, NULL, NULL);
RESET ROLE;
DROP OWNED BY cdi_test_channel_reader, cdi_test_channel_admin;
DROP ROLE cdi_test_channel_reader, cdi_test_channel_admin, cdi_test_nobody;
