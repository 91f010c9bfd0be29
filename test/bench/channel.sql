-- What cdi_channel() costs per call: psql -f test/bench/channel.sql, in a
-- database with cdi_init().  "repeated" is traffic of 960 combinations of
-- source, medium, click id and referrer, "unique" never repeats itself.
-- What reading the rows costs is taken off.
\set QUIET on
SET max_parallel_workers_per_gather = 0;
SET jit = off;
CREATE TEMP TABLE traffic AS
SELECT CASE WHEN i % 4 = 0 THEN (ARRAY['google', 'facebook', 'newsletter', 'youtube', 'partner', 'bing'])[i / 4 % 6 + 1] END AS source,
       CASE WHEN i % 4 = 0 THEN (ARRAY['cpc', 'email', 'organic', 'social', 'display'])[i / 24 % 5 + 1] END AS medium,
       CASE WHEN i % 4 = 1 THEN (ARRAY['gclid', 'fbclid', 'msclkid'])[i / 4 % 3 + 1] END AS click_id,
       CASE WHEN i % 4 = 2 THEN (ARRAY['www.google.com', 'l.facebook.com', 'blog.example', 'www.youtube.com', 'shop.example'])[i / 4 % 5 + 1] END AS referrer,
       'www.shop.example' AS page,
       CASE WHEN i % 4 = 0 THEN 'campaign ' || i / 120 % 8 END AS name, i::text AS unique_text
FROM generate_series(0, 999999) i;
SELECT count(unique_text) FROM traffic \g /dev/null
CREATE FUNCTION pg_temp.nanoseconds(call text) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    started timestamptz;
    spent interval;
    least interval;
BEGIN
    FOR i IN 1..5 LOOP
        started := clock_timestamp();
        EXECUTE format('SELECT count(%s) FROM traffic', call);
        spent := clock_timestamp() - started;
        least := least(least, spent);
    END LOOP;
    RETURN round(extract(epoch FROM least) * 1000);     -- a million rows: milliseconds are nanoseconds
END
$$;
SELECT pg_temp.nanoseconds('source') AS rows,
       pg_temp.nanoseconds($$cdi_channel(source, medium, click_id, referrer, page)$$) - pg_temp.nanoseconds('source') AS repeated,
       pg_temp.nanoseconds($$cdi_channel(source, medium, click_id, unique_text || '.example', page)$$) - pg_temp.nanoseconds($$unique_text || '.example'$$) AS unique_referrer,
       pg_temp.nanoseconds($$cdi_channel('site' || unique_text, medium, click_id, referrer, page)$$) - pg_temp.nanoseconds($$'site' || unique_text$$) AS unique_source;
SELECT pg_temp.nanoseconds($$cdi_channel(source, medium, click_id, referrer, page, name)$$) - pg_temp.nanoseconds('source') AS repeated_with_name,
       pg_temp.nanoseconds($$cdi_channel(source, medium, click_id, referrer, page, unique_text)$$) - pg_temp.nanoseconds('source') AS unique_name;
