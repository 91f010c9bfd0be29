-- Channels, sessions and touch types (src/attribution, src/behaviour).

CREATE OR REPLACE FUNCTION cdi_campaign(
    url text,
    OUT campaign_source text,
    OUT campaign_medium text,
    OUT campaign_name text,
    OUT campaign_term text,
    OUT campaign_content text,
    OUT campaign_id text,
    OUT source_platform text,
    OUT creative_format text,
    OUT marketing_tactic text,
    OUT click_id_type text,
    OUT click_id text,
    OUT host text)
RETURNS record
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_campaign(text) IS
'What an address says about where a visit came from, read as the pipeline reads the address of a page: utm_source, utm_medium, utm_campaign (campaign_name), utm_term, utm_content, utm_id (campaign_id), utm_source_platform, utm_creative_format and utm_marketing_tactic; the name (in lower case) and the value of an advertising click id; the host. Names count whatever their case; values are URL-decoded, and stay as they are where that is no valid text. Of a parameter that comes twice the first that has a value counts; of several click ids one that says that the click was paid for. What is missing or empty is null.';

-- Channel rules (src/attribution/channel_rules.c)
CREATE OR REPLACE FUNCTION cdi._channels_changed()
RETURNS trigger
LANGUAGE C
AS 'MODULE_PATHNAME', 'cdi_channels_changed';
COMMENT ON FUNCTION cdi._channels_changed() IS 'Internal: trigger of the tables of channel rules, which backends keep in memory.';

CREATE OR REPLACE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON cdi.channel_rules
    FOR EACH STATEMENT EXECUTE FUNCTION cdi._channels_changed();
CREATE OR REPLACE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON cdi.channel_sites
    FOR EACH STATEMENT EXECUTE FUNCTION cdi._channels_changed();

CREATE OR REPLACE FUNCTION cdi._channel_rules_fixed()
RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION 'rules of a channel group cannot be changed or removed'
        USING ERRCODE = 'object_not_in_prerequisite_state',
              DETAIL = 'Reports rest on them.',
              HINT = 'cdi_set_channel_rules() makes a new version.';
END
$$;
COMMENT ON FUNCTION cdi._channel_rules_fixed() IS 'Internal: trigger of cdi.channel_rules; a version stays as it was made.';

CREATE OR REPLACE TRIGGER fixed BEFORE UPDATE OR DELETE OR TRUNCATE ON cdi.channel_rules
    FOR EACH STATEMENT EXECUTE FUNCTION cdi._channel_rules_fixed();

CREATE OR REPLACE FUNCTION cdi._check_channel_rule(rule integer, condition jsonb)
RETURNS void
LANGUAGE C STABLE STRICT
AS 'MODULE_PATHNAME', 'cdi_check_channel_rule';
COMMENT ON FUNCTION cdi._check_channel_rule(integer, jsonb) IS 'Internal: raises ZC310 where the condition of a channel rule cannot be used.';

CREATE OR REPLACE FUNCTION cdi_create_channel(channel text, title text DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF channel IS NULL OR channel !~ '^[a-z0-9][a-z0-9_]{0,62}$' OR channel = 'unattributed' THEN
        RAISE EXCEPTION 'name of a channel must have 1 to 63 of a-z, 0-9 and _, and must not be unattributed'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'The title may be anything.';
    END IF;
    INSERT INTO cdi.channels AS c (channel, title)
    VALUES (cdi_create_channel.channel, coalesce(nullif(cdi_create_channel.title, ''), initcap(replace(cdi_create_channel.channel, '_', ' '))))
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'channel "%" exists already', channel USING ERRCODE = 'duplicate_object';
    END IF;
END
$$;
COMMENT ON FUNCTION cdi_create_channel(text, text) IS
'Adds a marketing channel, so that channel rules and touch types may name it. The title is its name in reports. Raises 42710 where it exists.';

CREATE OR REPLACE FUNCTION cdi_set_channel_site(site text, kind text, any_tld boolean DEFAULT false)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    wanted text := regexp_replace(lower(btrim(site)), '^www[.]', '');
BEGIN
    IF wanted IS NULL OR wanted !~ '^[^ /:]{1,253}$' THEN
        RAISE EXCEPTION 'a site is a domain such as shop.example, or a name that campaigns are tagged with'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Leave out https:// and the path.';
    END IF;
    IF kind IS NULL THEN
        DELETE FROM cdi.channel_sites s WHERE s.site = wanted;
        PERFORM cdi._add_channel_sites();
        RETURN;
    END IF;
    IF kind !~ '^[a-z][a-z0-9_]{0,62}$' THEN
        RAISE EXCEPTION 'kind of a site must have 1 to 63 of a-z, 0-9 and _'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'search, social, shopping, video, ai, other, or a word of your own.';
    END IF;
    INSERT INTO cdi.channel_sites AS s (site, kind, any_tld)
    VALUES (wanted, cdi_set_channel_site.kind, coalesce(cdi_set_channel_site.any_tld, false))
    ON CONFLICT ON CONSTRAINT channel_sites_pkey DO UPDATE SET kind = excluded.kind, any_tld = excluded.any_tld;
END
$$;
COMMENT ON FUNCTION cdi_set_channel_site(text, text, boolean) IS
'Says what kind of site a source or referrer is, for all channel rules and all versions: search, social, shopping, video, ai, a word of your own, or other for none of them. A domain covers its subdomains; a name without a dot is what campaigns are tagged with, and with any_tld a domain under any top-level domain, too. A null kind takes a site back to what comes with cdi.';

CREATE OR REPLACE FUNCTION cdi_set_channel_rules(channel_group text, rules jsonb)
RETURNS integer
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    example CONSTANT text := 'A rule is an object such as {"channel": "sms", "when": {"medium": ["sms", "text"]}, "note": "why"}.';
    element jsonb;
    n bigint;
    member text;
    new_version integer;
BEGIN
    IF coalesce(channel_group, '') = '' THEN
        RAISE EXCEPTION 'a channel group needs a name' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF rules IS NULL OR jsonb_typeof(rules) <> 'array' OR rules = '[]' THEN
        RAISE EXCEPTION 'channel rules must be an array with at least one rule'
            USING ERRCODE = 'ZC310', HINT = example;
    END IF;
    FOR element, n IN SELECT e.value, e.ordinality FROM jsonb_array_elements(rules) WITH ORDINALITY e LOOP
        IF jsonb_typeof(element) <> 'object' OR jsonb_typeof(element -> 'channel') IS DISTINCT FROM 'string'
            OR jsonb_typeof(coalesce(element -> 'note', 'null')) NOT IN ('string', 'null') THEN
            RAISE EXCEPTION 'channel rule % cannot be used', n
                USING ERRCODE = 'ZC310', DETAIL = 'It must be an object with a channel and a condition, and may have a note.', HINT = example;
        END IF;
        FOR member IN SELECT k FROM jsonb_object_keys(element) k WHERE k NOT IN ('channel', 'when', 'note') LOOP
            RAISE EXCEPTION 'channel rule % cannot be used', n
                USING ERRCODE = 'ZC310', DETAIL = format('A rule has no member "%s".', member), HINT = example;
        END LOOP;
        IF NOT EXISTS (SELECT FROM cdi.channels c WHERE c.channel = element ->> 'channel') THEN
            RAISE EXCEPTION 'channel "%" of rule % does not exist', element ->> 'channel', n
                USING ERRCODE = 'ZC311',
                      DETAIL = 'Channels are ' || (SELECT string_agg(c.channel, ', ' ORDER BY c.channel) FROM cdi.channels c) || '.',
                      HINT = format('SELECT cdi_create_channel(%L) makes it one.', element ->> 'channel');
        END IF;
        PERFORM cdi._check_channel_rule(n::integer, coalesce(element -> 'when', '{}'));
    END LOOP;

    PERFORM pg_advisory_xact_lock(x'cd10'::int, 1);     -- one new version at a time
    SELECT coalesce(max(r.version), 0) + 1 INTO new_version
    FROM cdi.channel_rules r WHERE r.channel_group = cdi_set_channel_rules.channel_group;
    INSERT INTO cdi.channel_rules (channel_group, version, rule, channel, condition, note)
    SELECT cdi_set_channel_rules.channel_group, new_version, e.ordinality, e.value ->> 'channel', coalesce(e.value -> 'when', '{}'), e.value ->> 'note'
    FROM jsonb_array_elements(rules) WITH ORDINALITY e;
    RETURN new_version;
END
$$;
COMMENT ON FUNCTION cdi_set_channel_rules(text, jsonb) IS
'Makes a new version of a channel group and returns its number; a group that does not exist begins with 1. rules is an array of objects with channel, when (the condition; left out, it holds always) and note, in the order in which they are tried. From the commit on the new version is the current one; views and cdi_channel() use the current version of group default. Older versions stay and can be asked for.
Raises ZC310 for a rule that cannot be used, with its number and the place in it, and ZC311 for a channel that does not exist. docs/attribution.md has the fields and tests.';

CREATE OR REPLACE FUNCTION cdi_channel_rules(channel_group text DEFAULT 'default', version integer DEFAULT NULL)
RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT jsonb_agg(jsonb_strip_nulls(jsonb_build_object('channel', r.channel, 'note', r.note)) || jsonb_build_object('when', r.condition) ORDER BY r.rule)
FROM cdi.channel_rules r
WHERE r.channel_group = $1
  AND r.version = coalesce($2, (SELECT max(c.version) FROM cdi.channel_rules c WHERE c.channel_group = $1))
$$;
COMMENT ON FUNCTION cdi_channel_rules(text, integer) IS
'Rules of a channel group as cdi_set_channel_rules() takes them, to change some and set them anew: of the given version, or of the current one. Null where there is no such group or version.';

CREATE OR REPLACE FUNCTION cdi_channel(
    campaign_source text,
    campaign_medium text,
    click_id_type text,
    referrer_host text,
    page_host text,
    campaign_name text DEFAULT NULL,
    campaign_term text DEFAULT NULL,
    campaign_content text DEFAULT NULL,
    channel_group text DEFAULT 'default',
    version integer DEFAULT NULL)
RETURNS text
LANGUAGE C STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_channel(text, text, text, text, text, text, text, text, text, integer) IS
'Marketing channel by the rules of a channel group: of the given version, or of the current one. The first rule whose condition holds counts; unassigned where none does. Never null. Group default comes with the rules of the GA4 default channel group and what click ids and referrers add to them. A referrer on the page''s own site, its subdomains included, counts as none.
Rules are read once per session and when they change; an event costs about as much as a comparison of its arguments. Raises ZC312 where there is no such group or version. docs/attribution.md has the rules with their sources.';

-- What comes with cdi, as rows that cdi_init() adds where they are missing.
CREATE OR REPLACE FUNCTION cdi._add_channel_sites()
RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
INSERT INTO cdi.channel_sites (site, kind, any_tld)
SELECT n.site, v.kind, v.any_tld
FROM (VALUES
    ('ai', false, '{ai.perplexity.app,ai.x.grok,bard.google.com,chat.deepseek.com,chat.mistral.ai,chat.openai.com,chat.qwen.ai,chat.z.ai,chatgpt,chatgpt.com,claude,claude.ai,com.anthropic.claude,com.deepseek.chat,com.google.android.apps.bard,com.google.gemini,com.microsoft.copilot,com.openai.chat,com.openai.chatgpt,copilot,copilot.cloud.microsoft,copilot.com,copilot.microsoft.com,deepseek,doubao.com,edgeservices.bing.com,gemini,gemini.google.com,grok,grok.com,kimi.com,m365.cloud.microsoft,meta.ai,openai,phind.com,pi.ai,poe.com,yiyan.baidu.com,you.com}'),
    ('ai', true, '{perplexity}'),
    ('other', false, '{accounts.google.com,ads.google.com,business.google.com,calendar.google.com,chat.google.com,classroom.google.com,cloud.google.com,developers.google.com,docs.google.com,drive.google.com,keep.google.com,login.yahoo.com,mail.aol.com,mail.google.com,mail.naver.com,mail.yahoo.co.jp,mail.yahoo.com,mail.yandex.ru,maps.google.com,meet.google.com,myaccount.google.com,notebooklm.google.com,pay.google.com,photos.google.com,play.google.com,sites.google.com,support.google.com,tagassistant.google.com,translate.google.com}'),
    ('other', true, '{blog.daum,blog.naver,cafe.daum,cafe.naver,disk.yandex,email.seznam,finance.yahoo,mail.daum,mail.google,mail.seznam,mail.yahoo,mail.yandex,mail2.daum,maps.google,news.google,news.naver,news.yahoo,post.naver,sports.yahoo,translate.google}'),
    ('search', false, '{ask,ask.com,brave,busca.orange.es,busca.uol.com.br,cn.bing.com,com.google.android.googlequicksearchbox,com.google.googlemobile,com.microsoft.bing,duck.com,eniro.se,exalead.com,fireball.de,go.mail.ru,gulesider.no,haosou.com,info.com,infospace.com,ixquick.com,kagi.com,kvasir.no,lemoteur.fr,metacrawler.com,mojeek.com,mysearch.com,najdi.si,neti.ee,onet.pl,pesquisa.sapo.pt,petalsearch.com,presearch.com,rambler.ru,search-results.com,search.1und1.de,search.avg.com,search.babylon.com,search.biglobe.ne.jp,search.bluewin.ch,search.brave.com,search.com,search.conduit.com,search.free.fr,search.goo.ne.jp,search.lilo.org,search.nifty.com,search.orange.co.uk,search.smt.docomo.ne.jp,search.walla.co.il,search.yam.com,sm.cn,so.360.cn,so.com,startsiden.no,suche.freenet.de,suche.gmx.net,suche.t-online.de,suche.web.de,swisscows.com,szukaj.wp.pl,webcrawler.com,websearch.rakuten.co.jp,ya.ru,yippy.com}'),
    ('search', true, '{aol,baidu,bing,buscador.terra,coccoc,daum,dogpile,duckduckgo,ecosia,google,lycos,metager,msn,naver,qwant,search.excite,seznam,sogou,startpage,virgilio,yahoo,yandex,zapmeta}'),
    ('shopping', false, '{com.amazon.amazon,com.amazon.mshop.android.shopping,com.ebay.iphone,com.ebay.mobile,com.etsy.android,igshopping,shop.app,shopping.com,shopping.google.com,shopping.naver.com,shopping.yahoo.co.jp,shopping.yahoo.com}'),
    ('shopping', true, '{alibaba,aliexpress,amazon,dealtime,ebay,etsy,mercadolibre,mercadolivre,nextag,rakuten,shopify,shopzilla,walmart}'),
    ('social', false, '{blogger,blogspot.com,bluesky,bsky.app,com.atebits.tweetie2,com.burbn.barcelona,com.burbn.instagram,com.discord,com.facebook.facebook,com.facebook.katana,com.facebook.lite,com.facebook.messenger,com.facebook.orca,com.hammerandchisel.discord,com.instagram.android,com.instagram.barcelona,com.linkedin.android,com.linkedin.linkedin,com.pinterest,com.reddit.frontpage,com.reddit.reddit,com.slack,com.snapchat.android,com.tencent.mm,com.tencent.xin,com.toyopagroup.picaboo,com.twitter.android,com.viber.voip,com.vkontakte.android,com.whatsapp,com.zhiliaoapp.musically,disq.us,fb,fb.com,fb.me,foursquare.com,getpocket.com,groups.google.com,hi5.com,ig,ig.me,jp.naver.line,jp.naver.line.android,last.fm,line.me,lnkd.in,m.me,medium.com,meta,mixi.jp,my.mail.ru,myheritage.com,net.whatsapp.whatsapp,news.ycombinator.com,nk.pl,ok.ru,org.telegram.messenger,ph.telegra.telegraph,pin.it,plus.google.com,qzone.qq.com,skyrock.com,slack.com,stackexchange.com,stumbleupon.com,t.cn,t.co,t.me,taringa.net,threads,threads.com,threads.net,vk,vk.com,vk.ru,vkontakte.ru,wa.me,wechat,weixin.qq.com,x,x.com}'),
    ('social', true, '{9gag,badoo,deviantart,digg,discord,disqus,douban,facebook,flickr,flipboard,glassdoor,goodreads,groups.google,imgur,instagram,kakao,linkedin,livejournal,mastodon,meetup,messenger,myspace,nextdoor,odnoklassniki,pinterest,plurk,producthunt,quora,reddit,snapchat,stackoverflow,telegram,tieba.baidu,tiktok,tripadvisor,trustpilot,truthsocial,tumblr,twitter,viadeo,wattpad,weibo,whatsapp,xing,yelp,zhihu}'),
    ('video', false, '{com.google.android.youtube,com.google.ios.youtube,com.vimeo.android.videoapp,d.tube,odysee.com,ted.com,tv.twitch,tv.twitch.android.app,youtu.be}'),
    ('video', true, '{bilibili,crackle,crunchyroll,curiositystream,dailymotion,disneyplus,hulu,iqiyi,netflix,rumble,twitch,veoh,vimeo,wistia,youku,youtube}')
) AS v (kind, any_tld, sites), unnest(v.sites::text[]) AS n (site)
ON CONFLICT ON CONSTRAINT channel_sites_pkey DO NOTHING
$$;
COMMENT ON FUNCTION cdi._add_channel_sites() IS 'Internal: adds the sites that come with cdi, where they are missing.';

CREATE OR REPLACE FUNCTION cdi._add_channels()
RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
INSERT INTO cdi.channels (channel, title) VALUES
    ('direct', 'Direct'),
    ('cross_network', 'Cross-network'),
    ('paid_shopping', 'Paid Shopping'),
    ('paid_search', 'Paid Search'),
    ('paid_social', 'Paid Social'),
    ('paid_video', 'Paid Video'),
    ('display', 'Display'),
    ('paid_other', 'Paid Other'),
    ('ai_assistant', 'AI Assistant'),
    ('organic_shopping', 'Organic Shopping'),
    ('organic_social', 'Organic Social'),
    ('organic_video', 'Organic Video'),
    ('organic_search', 'Organic Search'),
    ('referral', 'Referral'),
    ('email', 'Email'),
    ('affiliate', 'Affiliates'),
    ('audio', 'Audio'),
    ('sms', 'SMS'),
    ('push', 'Mobile Push Notifications'),
    ('unassigned', 'Unassigned')
ON CONFLICT ON CONSTRAINT channels_pkey DO NOTHING;

SELECT cdi._add_channel_sites();

-- GA4: "Default channel group", Analytics help, answer 9756891
INSERT INTO cdi.channel_rules (channel_group, version, rule, channel, condition, note)
SELECT 'default', 1, v.rule, v.channel, v.condition::jsonb, v.note
FROM (VALUES
    (1, 'direct', '{"source": "(direct)", "medium": [null, "(not set)", "(none)"], "click_id": null}', 'GA4 Direct'),
    (2, 'cross_network', '{"campaign": {"contains": "cross-network"}}', 'GA4 Cross-network'),
    (3, 'paid_shopping', '{"any": [{"source_site": "shopping"}, {"campaign": {"matches": "^(.*(([^a-df-z]|^)shop|shopping).*)$"}}], "medium": {"matches": "^(.*cp.*|ppc|retargeting|paid.*)$"}}', 'GA4 Paid Shopping'),
    (4, 'paid_search', '{"source_site": "search", "medium": {"matches": "^(.*cp.*|ppc|retargeting|paid.*)$"}}', 'GA4 Paid Search'),
    (5, 'paid_social', '{"source_site": "social", "medium": {"matches": "^(.*cp.*|ppc|retargeting|paid.*)$"}}', 'GA4 Paid Social'),
    (6, 'paid_video', '{"source_site": "video", "medium": {"matches": "^(.*cp.*|ppc|retargeting|paid.*)$"}}', 'GA4 Paid Video'),
    (7, 'display', '{"medium": ["display", "banner", "expandable", "interstitial", "cpm"]}', 'GA4 Display'),
    (8, 'paid_other', '{"medium": {"matches": "^(.*cp.*|ppc|retargeting|paid.*)$"}}', 'GA4 Paid Other'),
    (9, 'paid_search', '{"click_id": ["gclid", "gbraid", "wbraid", "gclsrc", "gad_source", "gad_campaignid", "msclkid", "yclid", "bd_vid"]}', 'Click ids of Google Ads, Microsoft Advertising, Yandex Direct, Yahoo! Japan, Baidu'),
    (10, 'paid_social', '{"click_id": ["ttclid", "twclid", "li_fat_id", "rdt_cid", "sccid", "epik", "qclid", "ndclid", "ctwa_clid", "rb_clickid", "ldtag_cl"]}', 'Click ids of TikTok, X, LinkedIn, Reddit, Snap, Pinterest, Quora, Nextdoor, Meta (WhatsApp), VK, LINE'),
    (11, 'display', '{"click_id": ["dclid", "tblci", "obclid", "dicbo", "vmcid"]}', 'Click ids of Display & Video 360, Taboola, Outbrain, Yahoo DSP'),
    (12, 'affiliate', '{"click_id": ["irclickid", "irclid", "cjevent", "awc", "sscid", "ransiteid", "tduid", "admitad_uid"]}', 'Click ids of impact.com, CJ, Awin, ShareASale, Rakuten, Tradedoubler, Admitad'),
    (13, 'direct', '{"source": "(direct)", "medium": [null, "(not set)", "(none)"]}', 'GA4 Direct, with a click id that says nothing about payment'),
    (14, 'ai_assistant', '{"any": [{"medium": "ai-assistant"}, {"source_site": "ai", "medium": [null, "(not set)", "(none)"]}]}', 'GA4 AI Assistant; assistants tag links with a source alone'),
    (15, 'organic_shopping', '{"any": [{"source_site": "shopping"}, {"campaign": {"matches": "^(.*(([^a-df-z]|^)shop|shopping).*)$"}}]}', 'GA4 Organic Shopping'),
    (16, 'organic_social', '{"any": [{"source_site": "social"}, {"medium": ["social", "social-network", "social-media", "sm", "social network", "social media"]}]}', 'GA4 Organic Social'),
    (17, 'organic_video', '{"any": [{"source_site": "video"}, {"medium": {"matches": "^(.*video.*)$"}}]}', 'GA4 Organic Video'),
    (18, 'organic_search', '{"any": [{"source_site": "search"}, {"medium": "organic"}]}', 'GA4 Organic Search'),
    (19, 'referral', '{"medium": ["referral", "app", "link"]}', 'GA4 Referral'),
    (20, 'email', '{"any": [{"source": ["email", "e-mail", "e_mail", "e mail"]}, {"medium": ["email", "e-mail", "e_mail", "e mail"]}]}', 'GA4 Email'),
    (21, 'affiliate', '{"medium": ["affiliate", "affiliates"]}', 'GA4 Affiliates; the plural as GA4 had it earlier'),
    (22, 'audio', '{"medium": "audio"}', 'GA4 Audio'),
    (23, 'sms', '{"any": [{"source": "sms"}, {"medium": "sms"}]}', 'GA4 SMS'),
    (24, 'push', '{"any": [{"medium": {"ends_with": "push"}}, {"medium": {"contains": ["mobile", "notification"]}}, {"source": "firebase"}]}', 'GA4 Mobile Push Notifications'),
    (25, 'organic_social', '{"click_id": ["fbclid", "igshid", "igsh"]}', 'Meta adds them to every outbound link'),
    (26, 'organic_search', '{"click_id": "ysclid"}', 'Yandex adds it to search results'),
    (27, 'organic_shopping', '{"click_id": "srsltid"}', 'Google Merchant Center adds it to free listings'),
    (28, 'email', '{"click_id": ["mc_eid", "mc_cid", "_hsenc", "_hsmi", "mkt_tok", "_kx", "ml_subscriber", "vero_id", "bsft_clkid", "elqtrackid", "dm_i", "oly_enc_id"]}', 'Ids of Mailchimp, HubSpot, Marketo, Klaviyo, MailerLite, Vero, Blueshift, Eloqua, dotdigital, Omeda'),
    (29, 'paid_other', '{"click_id": "ko_click_id"}', 'Kochava adds it to the links of campaigns of any kind'),
    (30, 'unassigned', '{"not": {"source": null, "medium": null}}', 'GA4 Unassigned: a campaign that fits no rule wins over the referrer'),
    (31, 'ai_assistant', '{"referrer_site": "ai"}', 'GA4 AI Assistant, by the referrer'),
    (32, 'organic_shopping', '{"referrer_site": "shopping"}', 'GA4 Organic Shopping, by the referrer'),
    (33, 'organic_social', '{"referrer_site": "social"}', 'GA4 Organic Social, by the referrer'),
    (34, 'organic_video', '{"referrer_site": "video"}', 'GA4 Organic Video, by the referrer'),
    (35, 'organic_search', '{"referrer_site": "search"}', 'GA4 Organic Search, by the referrer'),
    (36, 'referral', '{"not": {"referrer": null}}', 'GA4 Referral, by the referrer'),
    (37, 'direct', '{}', 'Nothing known')
) AS v (rule, channel, condition, note)
WHERE NOT EXISTS (SELECT FROM cdi.channel_rules r WHERE r.channel_group = 'default');
$$;
COMMENT ON FUNCTION cdi._add_channels() IS 'Internal: adds the channels, sites and channel rules that come with cdi, where they are missing.';

CREATE OR REPLACE FUNCTION cdi_campaign_key(
    campaign_source text, campaign_medium text, campaign_name text,
    campaign_term text, campaign_content text, click_id_type text)
RETURNS text
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_campaign_key(text, text, text, text, text, text) IS
'What tells one campaign from another, for cdi_session_id(): its fields as in a query string. Null where the event carries none.';

CREATE OR REPLACE FUNCTION cdi_session_id(
    event_id uuid,
    "timestamp" timestamptz,
    campaign text,
    gap interval DEFAULT '30 minutes',
    midnight text DEFAULT NULL,
    cut boolean DEFAULT NULL)
RETURNS uuid
LANGUAGE C IMMUTABLE PARALLEL SAFE WINDOW
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_session_id(uuid, timestamptz, text, interval, text, boolean) IS
'Window function: session of each event, OVER (PARTITION BY person ORDER BY timestamp, position). The id is that of the session''s first event. A session begins after more than the gap without an event; with an event whose campaign is not null and differs from the session''s; where midnight names a time zone, with an event on another day there than the event before it; and with an event for which cut is true. One pass, constant memory per partition. Raises 42P20 where the rows are not in order of time, 22023 for a gap that is not positive or has months and for an unknown time zone.';

CREATE OR REPLACE FUNCTION cdi_session_channel(
    event_id uuid,
    "timestamp" timestamptz,
    campaign text,
    gap interval,
    channel text,
    midnight text DEFAULT NULL,
    cut boolean DEFAULT NULL)
RETURNS text
LANGUAGE C IMMUTABLE PARALLEL SAFE WINDOW
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION cdi_session_channel(uuid, timestamptz, text, interval, text, text, boolean) IS
'Window function beside cdi_session_id(), with the same arguments and the channel of each event: for the first event of a session the first channel in it that is not direct, or direct; null for other events.';

CREATE OR REPLACE FUNCTION cdi_set_sessions(
    gap interval DEFAULT '30 minutes',
    midnight text DEFAULT NULL,
    cut_events text[] DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- The window function knows what it cannot work with.
    PERFORM @extschema@.cdi_session_id('00000000-0000-0000-0000-000000000000', now(), NULL, gap, midnight) OVER ();
    IF array_position(cut_events, NULL) IS NOT NULL OR array_position(cut_events, '') IS NOT NULL THEN
        RAISE EXCEPTION 'events that begin a session need names' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    INSERT INTO cdi.session_settings AS s (gap, midnight, cut_events)
    VALUES (cdi_set_sessions.gap, cdi_set_sessions.midnight, nullif(cdi_set_sessions.cut_events, '{}'))
    ON CONFLICT (only_row) DO UPDATE SET gap = excluded.gap, midnight = excluded.midnight, cut_events = excluded.cut_events;
END
$$;
COMMENT ON FUNCTION cdi_set_sessions(interval, text, text[]) IS
'Declares what ends a session in cdi.session_events, cdi.sessions and cdi.touchpoints, for all of history: the gap; the time zone whose midnight ends one (null: midnight ends none); the names of events, pages and screens that begin one by themselves. What is not given takes its default.';

CREATE OR REPLACE FUNCTION cdi_create_touch_type(
    name text,
    event text,
    kind text,
    channel text DEFAULT NULL,
    properties jsonb DEFAULT '{}')
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    fields CONSTANT text[] := '{channel,campaign_source,campaign_medium,campaign_name,campaign_term,campaign_content}';
    member text;
    value jsonb;
BEGIN
    IF coalesce(name, '') = '' OR coalesce(event, '') = '' THEN
        RAISE EXCEPTION 'a touch type needs a name and an event'
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'SELECT cdi_create_touch_type(''ad_view'', ''Ad Viewed'', ''impression'', channel => ''display'');';
    END IF;
    IF kind IS NULL OR kind NOT IN ('click', 'impression', 'offline') THEN
        RAISE EXCEPTION 'kind of a touch type must be click, impression or offline' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF channel IS NOT NULL AND NOT EXISTS (SELECT FROM cdi.channels c WHERE c.channel = cdi_create_touch_type.channel) THEN
        RAISE EXCEPTION 'channel "%" does not exist', channel
            USING ERRCODE = 'ZC311',
                  DETAIL = 'Channels are ' || (SELECT string_agg(c.channel, ', ' ORDER BY c.channel) FROM cdi.channels c) || '.',
                  HINT = format('SELECT cdi_create_channel(%L) makes it one.', channel);
    END IF;
    IF properties IS NULL OR jsonb_typeof(properties) <> 'object' THEN
        RAISE EXCEPTION 'properties of a touch type must be a JSON object' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    FOR member, value IN SELECT p.key, p.value FROM jsonb_each(properties) p LOOP
        IF NOT member = ANY (fields) OR jsonb_typeof(value) <> 'string' THEN
            RAISE EXCEPTION 'member "%" of properties cannot be used', member
                USING ERRCODE = 'invalid_parameter_value',
                      DETAIL = 'A member names the property that holds ' || array_to_string(fields, ', ') || '.';
        END IF;
    END LOOP;
    INSERT INTO cdi.touch_types AS t (name, event, kind, channel, properties)
    VALUES (cdi_create_touch_type.name, cdi_create_touch_type.event, cdi_create_touch_type.kind, cdi_create_touch_type.channel, cdi_create_touch_type.properties)
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'touch type "%", or one of event "%", exists already', name, event
            USING ERRCODE = 'duplicate_object',
                  HINT = 'Remove it with cdi_drop_touch_type() to declare it anew; events are not touched.';
    END IF;
END
$$;
COMMENT ON FUNCTION cdi_create_touch_type(text, text, text, text, jsonb) IS
'Declares that a tracked event is a touchpoint of its own: a click or an impression that an advertising platform reports, or an offline touch such as a call, a visit to a store or a letter. Applies to events of the past as well; such events are in no session. channel is that of all of them. Without it the property that properties names under channel has it, else the channel rules give it from the campaign: that of the call, else the properties named under campaign_source, campaign_medium, campaign_name, campaign_term and campaign_content. Raises 42710 where the name is taken or the event has a touch type, ZC311 for a channel that does not exist.';

CREATE OR REPLACE FUNCTION cdi_drop_touch_type(name text)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    DELETE FROM cdi.touch_types t WHERE t.name = cdi_drop_touch_type.name;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'touch type "%" does not exist', name
            USING ERRCODE = 'undefined_object',
                  HINT = coalesce('Touch types are ' || (SELECT string_agg(t.name, ', ' ORDER BY t.name) FROM cdi.touch_types t) || '.', 'There are none.');
    END IF;
END
$$;
COMMENT ON FUNCTION cdi_drop_touch_type(text) IS
'Takes back that an event is a touchpoint of its own; it counts in sessions again. Raises 42704 where there is none of that name.';

CREATE OR REPLACE FUNCTION cdi._first_transition(state internal, value anyelement, "timestamp" timestamptz, "position" bigint)
RETURNS internal
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_first_transition';
COMMENT ON FUNCTION cdi._first_transition(internal, anyelement, timestamptz, bigint) IS 'Internal: transition of cdi_first().';

CREATE OR REPLACE FUNCTION cdi._first_final(state internal, value anyelement, "timestamp" timestamptz, "position" bigint)
RETURNS anyelement
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_first_final';
COMMENT ON FUNCTION cdi._first_final(internal, anyelement, timestamptz, bigint) IS 'Internal: result of cdi_first() and cdi_last().';

CREATE OR REPLACE FUNCTION cdi._last_transition(state internal, value anyelement, "timestamp" timestamptz, "position" bigint)
RETURNS internal
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_last_transition';
COMMENT ON FUNCTION cdi._last_transition(internal, anyelement, timestamptz, bigint) IS 'Internal: transition of cdi_last().';

CREATE OR REPLACE FUNCTION cdi._first_combine(state internal, other internal)
RETURNS internal
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_first_combine';
COMMENT ON FUNCTION cdi._first_combine(internal, internal) IS 'Internal: two states of cdi_first() as one.';

CREATE OR REPLACE FUNCTION cdi._last_combine(state internal, other internal)
RETURNS internal
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_last_combine';
COMMENT ON FUNCTION cdi._last_combine(internal, internal) IS 'Internal: two states of cdi_last() as one.';

CREATE OR REPLACE FUNCTION cdi._first_serial(state internal)
RETURNS bytea
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_first_serial';
COMMENT ON FUNCTION cdi._first_serial(internal) IS 'Internal: a state of cdi_first() or cdi_last() as bytes.';

CREATE OR REPLACE FUNCTION cdi._first_deserial(serialised bytea, unused internal)
RETURNS internal
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cdi_first_deserial';
COMMENT ON FUNCTION cdi._first_deserial(bytea, internal) IS 'Internal: a state of cdi_first() or cdi_last() from bytes.';

CREATE OR REPLACE AGGREGATE cdi_first(value anyelement, "timestamp" timestamptz, "position" bigint) (
    SFUNC = cdi._first_transition,
    STYPE = internal,
    SSPACE = 128,
    FINALFUNC = cdi._first_final,
    FINALFUNC_EXTRA,
    COMBINEFUNC = cdi._first_combine,
    SERIALFUNC = cdi._first_serial,
    DESERIALFUNC = cdi._first_deserial,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE cdi_first(anyelement, timestamptz, bigint) IS
'The value with the earliest timestamp, of equal ones the one with the lowest position, of equal positions the lowest value by its bytes, null where there is no other. Needs no sorted input and keeps one value per group; runs in parallel plans. Nulls count; leave them out with FILTER.';

CREATE OR REPLACE AGGREGATE cdi_last(value anyelement, "timestamp" timestamptz, "position" bigint) (
    SFUNC = cdi._last_transition,
    STYPE = internal,
    SSPACE = 128,
    FINALFUNC = cdi._first_final,
    FINALFUNC_EXTRA,
    COMBINEFUNC = cdi._last_combine,
    SERIALFUNC = cdi._first_serial,
    DESERIALFUNC = cdi._first_deserial,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE cdi_last(anyelement, timestamptz, bigint) IS
'The value with the latest timestamp, of equal ones the one with the highest position, of equal positions the highest value by its bytes, null where there is no other; otherwise as cdi_first().';
