-- cdi_channel(): the rules of the GA4 default channel group, as published in
-- Google Analytics help, "Default channel group" (answer 9756891), and what
-- click ids and referrers add to them.  Each case says where its rule is from.
SET client_min_messages = warning;
CREATE TEMP TABLE cases (source text, medium text, click_id text, referrer text, page text, channel text, rule text);
INSERT INTO cases VALUES
-- GA4: Direct: source exactly "(direct)" and medium "(none)" or "(not set)"
('(direct)', '(none)', NULL, NULL, NULL, 'direct', 'GA4 Direct'),
('(direct)', '(not set)', NULL, NULL, NULL, 'direct', 'GA4 Direct'),
('(direct)', 'email', NULL, NULL, NULL, 'email', 'GA4 Direct needs both'),
(NULL, NULL, NULL, NULL, NULL, 'direct', 'nothing known'),
('', '', '', '', '', 'direct', 'empty is absent'),
('  ', NULL, NULL, NULL, NULL, 'direct', 'blank is absent'),
-- GA4: Paid Shopping: shopping site and medium ^(.*cp.*|ppc|retargeting|paid.*)$
('amazon', 'cpc', NULL, NULL, NULL, 'paid_shopping', 'GA4 Paid Shopping'),
('ebay', 'ppc', NULL, NULL, NULL, 'paid_shopping', 'GA4 Paid Shopping'),
('shopping.google.com', 'cpc', NULL, NULL, NULL, 'paid_shopping', 'GA4 Paid Shopping'),
-- GA4: Paid Search: search site and the same media
('google', 'cpc', NULL, NULL, NULL, 'paid_search', 'GA4 Paid Search'),
('Google', 'CPC', NULL, NULL, NULL, 'paid_search', 'GA4: case does not matter'),
('bing', 'ppc', NULL, NULL, NULL, 'paid_search', 'GA4 Paid Search'),
('duckduckgo', 'paid_search', NULL, NULL, NULL, 'paid_search', 'GA4 Paid Search, paid.*'),
('yandex', 'retargeting', NULL, NULL, NULL, 'paid_search', 'GA4 Paid Search, retargeting'),
('google', 'cpm', NULL, NULL, NULL, 'paid_search', 'GA4 order: Paid Search before Display'),
('www.google.co.uk', 'ecpa-cp1', NULL, NULL, NULL, 'paid_search', 'GA4 Paid Search, .*cp.*'),
-- GA4: Paid Social, Paid Video, Display, Paid Other
('facebook', 'paid_social', NULL, NULL, NULL, 'paid_social', 'GA4 Paid Social'),
('fb', 'paidsocial', NULL, NULL, NULL, 'paid_social', 'GA4 Paid Social'),
('l.instagram.com', 'cpc', NULL, NULL, NULL, 'paid_social', 'GA4 Paid Social'),
('youtube', 'cpv-cpc', NULL, NULL, NULL, 'paid_video', 'GA4 Paid Video'),
('adgrid', 'display', NULL, NULL, NULL, 'display', 'GA4 Display'),
('adgrid', 'banner', NULL, NULL, NULL, 'display', 'GA4 Display'),
('adgrid', 'expandable', NULL, NULL, NULL, 'display', 'GA4 Display'),
('adgrid', 'interstitial', NULL, NULL, NULL, 'display', 'GA4 Display'),
('adgrid', 'cpm', NULL, NULL, NULL, 'display', 'GA4 order: Display before Paid Other'),
(NULL, 'display', NULL, NULL, NULL, 'display', 'GA4 Display'),
('spotify', 'cpc', NULL, NULL, NULL, 'paid_other', 'GA4 Paid Other'),
(NULL, 'ppc', NULL, NULL, NULL, 'paid_other', 'GA4 Paid Other'),
('partner', 'ppcx', NULL, NULL, NULL, 'unassigned', 'GA4: ppc matches whole'),
-- GA4: Organic Shopping, Social, Video, Search
('etsy', 'whatever', NULL, NULL, NULL, 'organic_shopping', 'GA4 Organic Shopping'),
('linkedin', 'referral', NULL, NULL, NULL, 'organic_social', 'GA4 Organic Social, by source'),
('intranet', 'social', NULL, NULL, NULL, 'organic_social', 'GA4 Organic Social, by medium'),
('intranet', 'social-network', NULL, NULL, NULL, 'organic_social', 'GA4 Organic Social, by medium'),
('intranet', 'social media', NULL, NULL, NULL, 'organic_social', 'GA4 Organic Social, by medium'),
('intranet', 'sm', NULL, NULL, NULL, 'organic_social', 'GA4 Organic Social, by medium'),
('vimeo', 'referral', NULL, NULL, NULL, 'organic_video', 'GA4 Organic Video, by source'),
('partner', 'in-video', NULL, NULL, NULL, 'organic_video', 'GA4 Organic Video, .*video.*'),
('google', 'organic', NULL, NULL, NULL, 'organic_search', 'GA4 Organic Search'),
('inhouse', 'organic', NULL, NULL, NULL, 'organic_search', 'GA4 Organic Search, by medium'),
('google', NULL, NULL, NULL, NULL, 'organic_search', 'GA4 Organic Search, by source'),
-- GA4: Referral, Email, Affiliates, Audio, SMS, Mobile Push Notifications
('blog.example', 'referral', NULL, NULL, NULL, 'referral', 'GA4 Referral'),
('blog.example', 'app', NULL, NULL, NULL, 'referral', 'GA4 Referral'),
('blog.example', 'link', NULL, NULL, NULL, 'referral', 'GA4 Referral'),
('newsletter', 'email', NULL, NULL, NULL, 'email', 'GA4 Email, by medium'),
('newsletter', 'e-mail', NULL, NULL, NULL, 'email', 'GA4 Email, by medium'),
('newsletter', 'e_mail', NULL, NULL, NULL, 'email', 'GA4 Email, by medium'),
('newsletter', 'e mail', NULL, NULL, NULL, 'email', 'GA4 Email, by medium'),
('email', NULL, NULL, NULL, NULL, 'email', 'GA4 Email, by source'),
('dealhive', 'affiliate', NULL, NULL, NULL, 'affiliate', 'GA4 Affiliates'),
('podcast', 'audio', NULL, NULL, NULL, 'audio', 'GA4 Audio'),
('sms', 'x', NULL, NULL, NULL, 'sms', 'GA4 SMS, by source'),
('twilio', 'sms', NULL, NULL, NULL, 'sms', 'GA4 SMS, by medium'),
('braze', 'webpush', NULL, NULL, NULL, 'push', 'GA4 Mobile Push, .*push'),
('braze', 'mobile-inbox', NULL, NULL, NULL, 'push', 'GA4 Mobile Push, contains mobile'),
('braze', 'notification', NULL, NULL, NULL, 'push', 'GA4 Mobile Push, contains notification'),
('firebase', 'x', NULL, NULL, NULL, 'push', 'GA4 Mobile Push, by source'),
('catalogue', 'print', NULL, NULL, NULL, 'unassigned', 'GA4 Unassigned'),
('catalogue', NULL, NULL, 'www.google.com', 'shop.example', 'unassigned', 'a campaign wins over the referrer'),
-- GA4: AI Assistant: medium exactly "ai-assistant" (Analytics help, "What's new", 13 May 2026)
('chatgpt.com', 'ai-assistant', NULL, NULL, NULL, 'ai_assistant', 'GA4 AI Assistant'),
('unheard.example', 'AI-assistant', NULL, NULL, NULL, 'ai_assistant', 'GA4 AI Assistant, case does not matter'),
('x', 'ai-assistants', NULL, NULL, NULL, 'organic_social', 'the medium is another'),
('chatgpt.com', NULL, NULL, 'chatgpt.com', 'shop.example', 'ai_assistant', 'ChatGPT tags its links with a source alone'),
('chatgpt.com', 'referral', NULL, 'chatgpt.com', 'shop.example', 'referral', 'a medium of their own counts'),
('perplexity', 'cpc', NULL, NULL, NULL, 'paid_other', 'GA4 Paid Other'),
-- Click ids of advertising platforms, as each platform documents them
(NULL, NULL, 'gclid', 'www.google.com', 'shop.example', 'paid_search', 'Google Ads auto-tagging'),
(NULL, NULL, 'wbraid', NULL, NULL, 'paid_search', 'Google Ads auto-tagging (iOS)'),
(NULL, NULL, 'msclkid', NULL, NULL, 'paid_search', 'Microsoft Advertising auto-tagging'),
(NULL, NULL, 'dclid', NULL, NULL, 'display', 'Campaign Manager 360'),
(NULL, NULL, 'ttclid', NULL, NULL, 'paid_social', 'TikTok Ads'),
(NULL, NULL, 'li_fat_id', NULL, NULL, 'paid_social', 'LinkedIn Ads'),
(NULL, NULL, 'ScCid', NULL, NULL, 'paid_social', 'Snap Ads'),
(NULL, NULL, 'awc', NULL, NULL, 'affiliate', 'Awin'),
('google', 'organic', 'gclid', NULL, NULL, 'paid_search', 'an advertising click id wins over an unpaid medium'),
('youtube', 'cpc', 'gclid', NULL, NULL, 'paid_video', 'a paid source says more than the click id'),
(NULL, NULL, 'fbclid', 'l.facebook.com', 'shop.example', 'organic_social', 'Meta adds fbclid to every outbound link'),
('facebook', 'paid_social', 'fbclid', 'l.facebook.com', 'shop.example', 'paid_social', 'fbclid says nothing about payment'),
('mailing', 'x', 'mc_eid', NULL, NULL, 'email', 'Mailchimp'),
(NULL, NULL, 'irclid', NULL, NULL, 'affiliate', 'impact.com'),
(NULL, NULL, 'ko_click_id', NULL, NULL, 'paid_other', 'Kochava'),
(NULL, NULL, 'unheard_of', 'blog.example', 'shop.example', 'referral', 'an unknown click id says nothing'),
-- Referrers
(NULL, NULL, NULL, 'www.google.com', 'shop.example', 'organic_search', 'search site'),
(NULL, NULL, NULL, 'www.google.co.uk', 'shop.example', 'organic_search', 'search site under any top-level domain'),
(NULL, NULL, NULL, 'search.yahoo.co.jp', 'shop.example', 'organic_search', 'search site, subdomain'),
(NULL, NULL, NULL, 'duckduckgo.com', 'shop.example', 'organic_search', 'search site'),
(NULL, NULL, NULL, 'mail.google.com', 'shop.example', 'referral', 'webmail of a search site is none'),
(NULL, NULL, NULL, 'accounts.google.com', 'shop.example', 'referral', 'back from signing in with Google'),
(NULL, NULL, NULL, 'go.mail.ru', 'shop.example', 'organic_search', 'search site below a portal'),
(NULL, NULL, NULL, 'e.mail.ru', 'shop.example', 'referral', 'the portal is none'),
(NULL, NULL, NULL, 'shopping.yahoo.co.jp', 'shop.example', 'organic_shopping', 'shopping site below a search site'),
(NULL, NULL, NULL, 'notgoogle.com', 'shop.example', 'referral', 'names match whole'),
(NULL, NULL, NULL, 'google.com.evil.example', 'shop.example', 'referral', 'names match at the public end'),
(NULL, NULL, NULL, 'chatgpt.com', 'shop.example', 'ai_assistant', 'AI assistant'),
(NULL, NULL, NULL, 'www.perplexity.ai', 'shop.example', 'ai_assistant', 'AI assistant, subdomain'),
(NULL, NULL, NULL, 'gemini.google.com', 'shop.example', 'ai_assistant', 'AI assistant below a search site'),
(NULL, NULL, NULL, 'copilot.microsoft.com', 'shop.example', 'ai_assistant', 'AI assistant'),
(NULL, NULL, NULL, 'www.microsoft.com', 'shop.example', 'referral', 'the site above it is none'),
(NULL, NULL, NULL, 'com.openai.chatgpt', 'shop.example', 'ai_assistant', 'AI assistant, app'),
(NULL, NULL, NULL, 'com.facebook.facebook', 'shop.example', 'organic_social', 'social site, app'),
(NULL, NULL, NULL, 'com.google.googlemobile', NULL, 'organic_search', 'search site, app'),
(NULL, NULL, NULL, 'com.google.gmail', NULL, 'referral', 'another app of a search site is none'),
(NULL, NULL, NULL, 'com.yahoo.aerogram', NULL, 'referral', 'another app of a search site is none'),
(NULL, NULL, NULL, 'com.amazon.mshop.android.shopping', NULL, 'organic_shopping', 'shopping site, app'),
(NULL, NULL, NULL, 't.co', 'shop.example', 'organic_social', 'social site'),
(NULL, NULL, NULL, 'cat.co', 'shop.example', 'referral', 'domains match at a dot'),
(NULL, NULL, NULL, 'm.facebook.com', 'shop.example', 'organic_social', 'social site, subdomain'),
(NULL, NULL, NULL, 'old.reddit.com', 'shop.example', 'organic_social', 'social site, subdomain'),
(NULL, NULL, NULL, 'www.youtube.com', 'shop.example', 'organic_video', 'video site'),
(NULL, NULL, NULL, 'www.amazon.de', 'shop.example', 'organic_shopping', 'shopping site'),
(NULL, NULL, NULL, 'blog.trailnotes.example', 'shop.example', 'referral', 'GA4 Referral'),
(NULL, NULL, NULL, 'shop.example', 'shop.example', 'direct', 'internal'),
(NULL, NULL, NULL, 'www.shop.example', 'shop.example', 'direct', 'internal, with www'),
(NULL, NULL, NULL, 'checkout.shop.example', 'shop.example', 'direct', 'internal, subdomain'),
(NULL, NULL, NULL, 'shop.example', 'checkout.shop.example', 'direct', 'internal, domain above'),
(NULL, NULL, NULL, 'workshop.example', 'shop.example', 'referral', 'another site that ends alike'),
(NULL, NULL, NULL, 'www.google.com', NULL, 'organic_search', 'page unknown'),
(NULL, NULL, NULL, repeat('a', 300) || '.example', 'shop.example', 'referral', 'longer than a host can be'),
(NULL, NULL, NULL, '...', 'shop.example', 'referral', 'no host');

-- No row: every case is as its rule says.
SELECT c.*, cdi_channel(source, medium, click_id, referrer, page) AS got
FROM cases c
WHERE cdi_channel(source, medium, click_id, referrer, page) IS DISTINCT FROM channel;

SELECT channel, count(*) AS cases FROM cases GROUP BY channel ORDER BY channel;

-- Sites from all over the list: it must be in order for its search.
SELECT name, cdi_channel(name, 'referral', NULL, NULL, NULL) AS channel
FROM unnest('{alibaba,aol,bsky.app,claude.ai,daum,ecosia,lnkd.in,pinterest,rumble,seznam,x,x.com,xing,yandex,youtu.be,youtube}'::text[]) AS name;

SELECT provolatile, proparallel, proisstrict FROM pg_proc WHERE proname = 'cdi_channel';
