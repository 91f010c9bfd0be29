-- Campaigns of events of apps: those whose specification says that they tell
-- where an install or an opening came from.
--   Segment      Native Mobile Spec, "Campaign events" and "Application Opened" (RudderStack's is the same)
--   RudderStack  "Deep Link Tracking in Mobile SDKs"
--   Adjust       Segment's and RudderStack's integrations of Adjust: campaign has adCreative and adGroup
--   AppsFlyer    its plugin for Segment: campaign has source, name and ad_group, empty where it knows nothing
--   PostHog      SDK for iOS, buildDeepLinkProperties(): $referrer is an address or the id of an app
--   Amplitude    SDK for Android, autocapture of deep links
-- Examples of the specifications are as they are published.
SET client_min_messages = warning;
SET timezone = 'UTC';
SELECT cdi_create_source('mobile') IS NOT NULL AS made;
CREATE TEMP TABLE cases (n serial, why text, call jsonb,
    source text, medium text, name text, term text, content text, click_id text, referrer text, page text, channel text);
INSERT INTO cases (why, call, source, medium, name, term, content, click_id, referrer, page, channel) VALUES
('Segment: Install Attributed', '{"event": "Install Attributed", "properties": {"provider": "Tune/Kochava/Branch/AppsFlyer", "campaign": {"source": "Network/FB/AdWords/MoPub/Source",
  "name": "Campaign Name", "content": "Organic Content Title", "ad_creative": "Red Hello World Ad", "ad_group": "Red Ones"}}}',
  'Network/FB/AdWords/MoPub/Source', NULL, 'Campaign Name', NULL, 'Organic Content Title', NULL, NULL, NULL, 'unassigned'),
('the creative is the content where there is no other', '{"event": "Install Attributed", "properties": {"campaign": {"source": "Facebook", "medium": "cpc", "name": "Fall", "ad_creative": "Red", "ad_group": "G1"}}}',
  'Facebook', 'cpc', 'Fall', NULL, 'Red', NULL, NULL, NULL, 'paid_social'),
('Adjust: nulls and camels', '{"event": "Install Attributed", "properties": {"provider": "Adjust", "trackerToken": "t", "campaign": {"source": "google", "medium": "ppc", "name": "Fall", "content": null, "adCreative": "Red", "adGroup": null}}}',
  'google', 'ppc', 'Fall', NULL, 'Red', NULL, NULL, NULL, 'paid_search'),
('AppsFlyer', '{"event": "Install Attributed", "properties": {"provider": "AppsFlyer", "is_first_launch": true, "campaign": {"source": "media_source_moris", "name": "campaign_moris", "ad_group": "adgroup_moris"}}}',
  'media_source_moris', NULL, 'campaign_moris', NULL, NULL, NULL, NULL, NULL, 'unassigned'),
('AppsFlyer: without anything', '{"event": "Install Attributed", "properties": {"provider": "AppsFlyer", "campaign": {"source": "", "name": "", "ad_group": ""}}}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'direct'),
('an install by a paid video', '{"event": "Install Attributed", "properties": {"campaign": {"source": "YouTube", "medium": "paid_video", "term": "shoes"}}}',
  'YouTube', 'paid_video', NULL, 'shoes', NULL, NULL, NULL, NULL, 'paid_video'),
('an install by a banner', '{"event": "Install Attributed", "properties": {"campaign": {"source": "unity", "medium": "display"}}}', 'unity', 'display', NULL, NULL, NULL, NULL, NULL, NULL, 'display'),
('an install by a mail', '{"event": "Install Attributed", "properties": {"campaign": {"source": "crm", "medium": "email"}}}', 'crm', 'email', NULL, NULL, NULL, NULL, NULL, NULL, 'email'),
('an install of nobody''s', '{"event": "Install Attributed", "properties": {"provider": "Adjust"}}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'direct'),
('Segment: Push Notification Received', '{"event": "Push Notification Received", "properties": {"campaign": {"medium": "Push", "source": "Vendor Name", "name": "Referral Flow", "content": "Your friend invited you to play a match."}}}',
  'Vendor Name', 'Push', 'Referral Flow', NULL, 'Your friend invited you to play a match.', NULL, NULL, NULL, 'push'),
('Segment: Push Notification Tapped', '{"event": "Push Notification Tapped", "properties": {"action": "Accept", "campaign": {"medium": "Push", "source": "Vendor Name", "name": "Referral Flow", "content": "Your friend invited you to play a match."}}}',
  'Vendor Name', 'Push', 'Referral Flow', NULL, 'Your friend invited you to play a match.', NULL, NULL, NULL, 'push'),
('Segment: Push Notification Bounced', '{"event": "Push Notification Bounced", "properties": {"action": "Accept", "campaign": {"medium": "Push", "source": "Vendor Name", "name": "Referral Flow", "content": "Your friend invited you to play a match."}}}',
  'Vendor Name', 'Push', 'Referral Flow', NULL, 'Your friend invited you to play a match.', NULL, NULL, NULL, 'push'),
('the event says what kind of link it was', '{"event": "Push Notification Tapped", "properties": {"campaign": {"name": "Referral Flow"}}}', NULL, 'push', 'Referral Flow', NULL, NULL, NULL, NULL, NULL, 'push'),
('without a campaign, too', '{"event": "Push Notification Tapped"}', NULL, 'push', NULL, NULL, NULL, NULL, NULL, NULL, 'push'),
('the medium that it has counts', '{"event": "Push Notification Tapped", "properties": {"campaign": {"medium": "In-App Notification"}}}', NULL, 'In-App Notification', NULL, NULL, NULL, NULL, NULL, NULL, 'push'),
('Segment: Deep Link Opened', '{"event": "Deep Link Opened", "properties": {"provider": "Branch Metrics", "url": "app://landing"}}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'direct'),
('Segment: Deep Link Clicked', '{"event": "Deep Link Clicked", "properties": {"provider": "Branch Metrics", "url": "brnch.io/1234"}}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'direct'),
('a deep link with a campaign', '{"event": "Deep Link Opened", "properties": {"url": "shop://sale?utm_source=facebook&utm_medium=cpc&utm_campaign=fall&utm_term=t&utm_content=c&fbclid=x"}}',
  'facebook', 'cpc', 'fall', 't', 'c', 'fbclid', NULL, NULL, 'paid_social'),
('a universal link', '{"event": "Deep Link Opened", "properties": {"url": "https://www.shop.example/sale?gclid=1", "referrer": "android-app://com.google.android.googlequicksearchbox/"}}',
  NULL, NULL, NULL, NULL, NULL, 'gclid', 'com.google.android.googlequicksearchbox', 'www.shop.example', 'paid_search'),
('a link that was clicked', '{"event": "Deep Link Clicked", "properties": {"url": "brnch.io/1234?utm_source=newsletter&utm_medium=email", "referrer": "https://mail.google.com/"}}',
  'newsletter', 'email', NULL, NULL, NULL, NULL, 'mail.google.com', NULL, 'email'),
('what a provider adds', '{"event": "Deep Link Opened", "properties": {"url": "shop://sale?utm_content=c", "campaign": {"source": "tiktok", "medium": "paid"}}}', 'tiktok', 'paid', NULL, NULL, 'c', NULL, NULL, NULL, 'paid_social'),
('Segment: Application Opened', '{"event": "Application Opened", "properties": {"from_background": false, "referring_application": "GMail", "url": "url://location"}}', NULL, NULL, NULL, NULL, NULL, NULL, 'gmail', NULL, 'referral'),
('opened by a link', '{"event": "Application Opened", "properties": {"from_background": true, "url": "shop://cart?utm_source=sms", "referring_application": "com.apple.MobileSMS"}}', 'sms', NULL, NULL, NULL, NULL, NULL, 'com.apple.mobilesms', NULL, 'sms'),
('opened by another app', '{"event": "Application Opened", "properties": {"referring_application": "com.facebook.Facebook"}}', NULL, NULL, NULL, NULL, NULL, NULL, 'com.facebook.facebook', NULL, 'organic_social'),
('opened by itself', '{"event": "Application Opened", "properties": {"referring_application": "com.Shop.ios"}, "context": {"app": {"namespace": "com.shop.iOS"}}}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'direct'),
('PostHog: Deep Link Opened', '{"event": "Deep Link Opened", "properties": {"url": "shop://x", "$referrer": "com.burbn.instagram"}, "context": {"page": {"referrer": "com.burbn.instagram"}}}',
  NULL, NULL, NULL, NULL, NULL, NULL, 'com.burbn.instagram', NULL, 'organic_social'),
('Amplitude: deep link', '{"event": "[Amplitude] Deep Link Opened", "properties": {"[Amplitude] Link URL": "https://shop.example/?utm_source=bing&utm_medium=cpc&msclkid=1", "[Amplitude] Link Referrer": "https://www.bing.com/"}}',
  'bing', 'cpc', NULL, NULL, NULL, 'msclkid', 'www.bing.com', 'shop.example', 'paid_search'),
('Google Play''s referrer', '{"event": "application_install", "context": {"installReferrer": "utm_source=google-play&utm_medium=organic"}}', 'google-play', 'organic', NULL, NULL, NULL, NULL, NULL, NULL, 'organic_search'),
('and of an ad', '{"event": "application_install", "context": {"installReferrer": "gclid=Cj0&utm_campaign=fall%20sale"}}', NULL, NULL, 'fall sale', NULL, NULL, 'gclid', NULL, NULL, 'paid_search'),
-- What stays as it was
('the context counts, whole', '{"event": "Install Attributed", "properties": {"campaign": {"source": "Facebook", "medium": "cpc", "name": "fall"}}, "context": {"campaign": {"source": "newsletter", "medium": "email"}}}',
  'newsletter', 'email', NULL, NULL, NULL, NULL, NULL, NULL, 'email'),
('an empty context says nothing', '{"event": "Install Attributed", "properties": {"campaign": {"source": "Facebook", "medium": "cpc"}}, "context": {"campaign": {"source": "", "medium": null}}}', 'Facebook', 'cpc', NULL, NULL, NULL, NULL, NULL, NULL, 'paid_social'),
('a link on a web page leads away', '{"event": "Deep Link Clicked", "properties": {"url": "https://go.example/?utm_source=web&utm_medium=banner"}, "context": {"page": {"url": "https://shop.example/", "referrer": "https://www.google.com/"}}}',
  NULL, NULL, NULL, NULL, NULL, NULL, 'www.google.com', 'shop.example', 'organic_search'),
('an event of no specification', '{"event": "Banner Rotated", "properties": {"campaign": {"source": "Facebook", "medium": "cpc"}, "url": "https://shop.example/?utm_source=x", "referrer": "https://www.google.com/"}}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'direct'),
('names match whole', '{"event": "install attributed", "properties": {"campaign": {"source": "Facebook", "medium": "cpc"}}}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'direct'),
('a screen is no event', '{"type": "screen", "name": "Install Attributed", "properties": {"campaign": {"source": "Facebook", "medium": "cpc"}}}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'direct'),
('a web page', '{"type": "page", "properties": {"url": "https://shop.example/?utm_source=google&utm_medium=organic", "campaign": {"source": "Facebook", "medium": "cpc"}}}', 'google', 'organic', NULL, NULL, NULL, NULL, NULL, 'shop.example', 'organic_search'),
('no objects, no texts', '{"event": "Install Attributed", "properties": {"campaign": "fall", "url": 1, "referrer": {}}}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'direct'),
('no texts in it', '{"event": "Deep Link Opened", "properties": {"campaign": {"source": ["a"], "medium": {}, "name": 1}, "url": ""}}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'direct');
SELECT stored, failed FROM cdi_ingest((SELECT jsonb_agg('{"type": "track", "timestamp": "2026-03-01T10:00:00Z"}' || call || jsonb_build_object('messageId', 'mobile-' || n, 'userId', 'mobile-' || n) ORDER BY n) FROM cases), 'mobile');
-- No row: all are as they should be.
SELECT c.n, c.why, e.campaign_source, e.campaign_medium, e.campaign_name, e.campaign_term, e.campaign_content, e.click_id_type, e.referrer_host, e.page_host, v.channel
FROM cases c LEFT JOIN cdi.events e ON e.message_id = 'mobile-' || c.n,
     cdi_channel(e.campaign_source, e.campaign_medium, e.click_id_type, e.referrer_host, e.page_host, e.campaign_name, e.campaign_term, e.campaign_content) AS v (channel)
WHERE (c.source, c.medium, c.name, c.term, c.content, c.click_id, c.referrer, c.page, c.channel) IS DISTINCT FROM
      (e.campaign_source, e.campaign_medium, e.campaign_name, e.campaign_term, e.campaign_content, e.click_id_type, e.referrer_host, e.page_host, v.channel);

-- They are touches: a session each, but for notifications that nobody may have seen.
SELECT cdi_resolve() IS NOT NULL AS resolved;
SELECT c.n, c.why, t.channel FROM cases c LEFT JOIN cdi.touchpoints t ON t.person_id = cdi_person('user_id', 'mobile-' || c.n)
WHERE t.channel IS DISTINCT FROM CASE WHEN c.call ->> 'event' IN ('Push Notification Received', 'Push Notification Bounced') THEN NULL ELSE c.channel END;
-- A notification is received within a session, before one and after one; the tap begins one.
SELECT stored FROM cdi_ingest('[
  {"type": "track", "event": "Push Notification Received", "userId": "mobile-user", "timestamp": "2026-03-01T09:50:00Z", "properties": {"campaign": {"source": "crm", "name": "morning"}}},
  {"type": "screen", "name": "Home", "userId": "mobile-user", "timestamp": "2026-03-01T10:00:00Z"},
  {"type": "track", "event": "Push Notification Received", "userId": "mobile-user", "timestamp": "2026-03-01T10:10:00Z", "properties": {"campaign": {"source": "crm", "name": "sale"}}},
  {"type": "screen", "name": "Cart", "userId": "mobile-user", "timestamp": "2026-03-01T10:20:00Z"},
  {"type": "track", "event": "Push Notification Tapped", "userId": "mobile-user", "timestamp": "2026-03-01T10:25:00Z", "properties": {"campaign": {"source": "crm", "name": "sale"}}},
  {"type": "screen", "name": "Sale", "userId": "mobile-user", "timestamp": "2026-03-01T10:26:00Z"},
  {"type": "track", "event": "Push Notification Bounced", "userId": "mobile-user", "timestamp": "2026-03-01T10:40:00Z", "properties": {"campaign": {"source": "crm", "name": "sale"}}}]', 'mobile');
SELECT started_at, ended_at, events, channel, campaign_source, campaign_name FROM cdi.sessions WHERE person_id = cdi_person('user_id', 'mobile-user') ORDER BY started_at;
-- Declared, it is an impression.
SELECT cdi_create_touch_type('push_received', 'Push Notification Received', 'impression');
SELECT touched_at, touch_type, channel, campaign_medium, campaign_name FROM cdi.touchpoints WHERE person_id = cdi_person('user_id', 'mobile-user') ORDER BY touched_at;
SELECT cdi_drop_touch_type('push_received');
