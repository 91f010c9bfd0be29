-- cdi_campaign(): what an address says, as the pipeline reads it.
SET client_min_messages = warning;
CREATE TEMP TABLE urls (url text, source text, medium text, name text, click_id_type text, click_id text, host text, why text);
INSERT INTO urls VALUES
('https://shop.example/?utm_source=google&utm_medium=cpc&utm_campaign=spring', 'google', 'cpc', 'spring', NULL, NULL, 'shop.example', 'plain'),
('https://shop.example/?utm_source=a%20b+c&utm_campaign=50%25+off%21', 'a b c', NULL, '50% off!', NULL, NULL, 'shop.example', 'RFC 3986 2.1, HTML form encoding'),
('https://shop.example/?utm_campaign=Fr%C3%BChling&utm_source=b%C3%BCro', 'büro', NULL, 'Frühling', NULL, NULL, 'shop.example', 'UTF-8, percent-encoded'),
('https://shop.example/?utm_source=%E4rger&utm_campaign=a%00b', '%E4rger', NULL, 'a%00b', NULL, NULL, 'shop.example', 'no valid text: as it came'),
('https://shop.example/?utm_source=100%&utm_medium=%zz&utm_campaign=%4', '100%', '%zz', '%4', NULL, NULL, 'shop.example', 'no escapes'),
('https://shop.example/?UTM_Source=A&Utm_Medium=CPC&GCLID=Xyz', 'A', 'CPC', NULL, 'gclid', 'Xyz', 'shop.example', 'names in any case, values as they are'),
('https://shop.example/?utm_source=&utm_source=first&utm_source=second', 'first', NULL, NULL, NULL, NULL, 'shop.example', 'the first that has a value'),
('https://shop.example/?utm_source=a#utm_source=b&utm_medium=c', 'a', NULL, NULL, NULL, NULL, 'shop.example', 'the fragment is no query'),
('https://shop.example/#section', NULL, NULL, NULL, NULL, NULL, 'shop.example', 'no query'),
('https://app.example/#/landing?utm_source=a&utm_medium=b', 'a', 'b', NULL, NULL, NULL, 'app.example', 'an application with its pages in the fragment'),
('https://app.example/?fbclid=1#/landing?utm_source=a&utm_medium=b', 'a', 'b', NULL, 'fbclid', '1', 'app.example', 'the same behind a query without a campaign'),
('https://app.example/?fbclid=1#/landing?gclid=2', NULL, NULL, NULL, 'gclid', '2', 'app.example', 'the strongest click id of both'),
('https://app.example/?utm_source=a#/landing?utm_source=b&utm_medium=c&gclid=2', 'a', NULL, NULL, NULL, NULL, 'app.example', 'the query names a campaign: no mixture of two'),
('https://app.example/?#!/landing?utm_source=a#x', 'a', NULL, NULL, NULL, NULL, 'app.example', 'an empty query'),
('https://shop.example/#utm_source=a&utm_medium=b', NULL, NULL, NULL, NULL, NULL, 'shop.example', 'a fragment without a query'),
('https://shop.example/?utm_source[]=a&utm_medium%5B0%5D=b', NULL, NULL, NULL, NULL, NULL, 'shop.example', 'lists have other names'),
('https://shop.example/?utm_source=a&amp;utm_medium=b&amp;gclid=1', 'a', 'b', NULL, 'gclid', '1', 'shop.example', 'HTML escapes'),
('https://shop.example/?utm%5Fsource=a', 'a', NULL, NULL, NULL, NULL, 'shop.example', 'an encoded name'),
('https://shop.example/?utm_source=a=b&utm_medium', 'a=b', NULL, NULL, NULL, NULL, 'shop.example', '= in a value, no value'),
('https://shop.example/?x=utm_source=a&xutm_source=b&utm_sourced=c', NULL, NULL, NULL, NULL, NULL, 'shop.example', 'other names'),
('https://shop.example/?&&&utm_source=a&&', 'a', NULL, NULL, NULL, NULL, 'shop.example', 'empty parameters'),
('https://shop.example/?fbclid=f1&gclid=g1&msclkid=m1', NULL, NULL, NULL, 'gclid', 'g1', 'shop.example', 'a paid click id counts before one that says nothing'),
('https://shop.example/?gad_source=1&gclid=g1&gbraid=b1', NULL, NULL, NULL, 'gclid', 'g1', 'shop.example', 'a click id before a mark'),
('https://shop.example/?gclid=&fbclid=f1', NULL, NULL, NULL, 'fbclid', 'f1', 'shop.example', 'an empty click id is none'),
('HTTPS://User:Pass@Shop.Example:8443/a?b', NULL, NULL, NULL, NULL, NULL, 'shop.example', 'user and port'),
('http://[2001:DB8::1]:80/?utm_source=a', 'a', NULL, NULL, NULL, NULL, '[2001:db8::1]', 'an IPv6 address'),
('//shop.example/x?utm_source=a', 'a', NULL, NULL, NULL, NULL, 'shop.example', 'without scheme'),
('/landing?utm_source=a&next=https://evil.example/', 'a', NULL, NULL, NULL, NULL, NULL, 'a path; the address in it is none of ours'),
('android-app://com.example.app/http/shop.example', NULL, NULL, NULL, NULL, NULL, 'com.example.app', 'an app'),
('?utm_source=a', 'a', NULL, NULL, NULL, NULL, NULL, 'a query alone'),
('', NULL, NULL, NULL, NULL, NULL, NULL, 'nothing'),
('https://', NULL, NULL, NULL, NULL, NULL, NULL, 'no host'),
('mailto:a@shop.example?utm_source=a', 'a', NULL, NULL, NULL, NULL, NULL, 'no host'),
('https://shop.example\@evil.example/?utm_source=a', 'a', NULL, NULL, NULL, NULL, 'shop.example', 'browsers take \ as /'),
('https://shop.example./', NULL, NULL, NULL, NULL, NULL, 'shop.example', 'a host with the dot of the root'),
('  https://shop.example/?utm_source=a  ', 'a', NULL, NULL, NULL, NULL, 'shop.example', 'blanks around a query'),
('  https://shop.example/  ', NULL, NULL, NULL, NULL, NULL, 'shop.example', 'blanks around it'),
('https://' || repeat('a', 300) || '.example/', NULL, NULL, NULL, NULL, NULL, NULL, 'longer than a host can be');
-- No row: all are as they should be.
SELECT u.why, u.url, c.campaign_source, c.campaign_medium, c.campaign_name, c.click_id_type, c.click_id, c.host
FROM urls u, cdi_campaign(u.url) c
WHERE (u.source, u.medium, u.name, u.click_id_type, u.click_id, u.host) IS DISTINCT FROM
      (c.campaign_source, c.campaign_medium, c.campaign_name, c.click_id_type, c.click_id, c.host);
SELECT * FROM cdi_campaign('https://shop.example/?utm_source=s&utm_medium=m&utm_campaign=n&utm_term=t&utm_content=c&utm_id=i&utm_source_platform=p&utm_creative_format=f&utm_marketing_tactic=x&ttclid=k') \gx
SELECT cdi_campaign(NULL) IS NULL AS strict;
-- 1 MB
SELECT length(c.campaign_source), c.campaign_medium, c.host
FROM (VALUES ('https://shop.example/?utm_source=' || repeat('%41', 350000) || '&utm_medium=m'), ('https://shop.example/' || repeat('x', 1000000) || '?utm_medium=m'),
             ('https://shop.example/?' || repeat('a&', 500000) || 'utm_medium=m'), (repeat('?', 1000000)), (repeat(':', 1000000)), (repeat('@', 1000000))) v (url), cdi_campaign(v.url) c;

-- The pipeline reads the same.
SELECT cdi_create_source('campaign') IS NOT NULL AS made;
SELECT stored, failed FROM cdi_ingest((SELECT jsonb_agg(jsonb_build_object('type', 'page', 'userId', 'campaign', 'messageId', 'campaign-' || md5(url), 'context',
    jsonb_build_object('page', jsonb_build_object('url', url, 'referrer', url)))) FROM urls), 'campaign');
SELECT u.why FROM urls u LEFT JOIN cdi.events e ON e.message_id = 'campaign-' || md5(u.url)
WHERE (e.campaign_source, e.campaign_medium, e.campaign_name, e.click_id_type, e.page_host, e.referrer_host) IS DISTINCT FROM
      (u.source, u.medium, u.name, u.click_id_type, u.host, u.host);
