-- Taking back what united people, as of which time who was who, and why.
SET client_min_messages = warning;
SELECT cdi_resolve() >= 0 AS resolved;
CREATE FUNCTION pg_temp.people(pattern text) RETURNS TABLE (identifiers text)
LANGUAGE sql AS $$
    SELECT string_agg(value, ' ' ORDER BY value) FROM cdi.person_identifiers WHERE value LIKE pattern GROUP BY person_id ORDER BY 1
$$;

-- Two people, each with a device, who meet in an e-mail address.
SELECT cdi_identify('um-ann', '{"age": 30}', anonymous_id => 'um-annphone', "timestamp" => '2026-05-01') IS NOT NULL AS ann;
SELECT cdi_identify(traits => '{"email": "um-ben@x.example"}', anonymous_id => 'um-benphone', "timestamp" => '2026-05-02') IS NOT NULL AS ben;
SELECT cdi_resolve();
SELECT cdi_person('user_id', 'um-ann') AS ann, cdi_person('anonymous_id', 'um-benphone') AS ben \gset
SELECT cdi_identify('um-ann', '{"email": "um-ben@x.example"}', "timestamp" => '2026-05-03') AS event \gset
SELECT cdi_resolve();
SELECT * FROM pg_temp.people('um-%');
SELECT rule, type, value, merged_at::date, event_id = :'event' AS by_the_event, survivor = :'ann' AS ann_survives, absorbed = :'ben' AS ben_absorbed, undone_at
FROM cdi.identity_merges WHERE absorbed = :'ben';
SELECT merge_id FROM cdi.identity_merges WHERE absorbed = :'ben' \gset
SELECT step, status, from_value, to_value, rule, linked_at::date FROM cdi_explain_identity('anonymous_id', 'um-annphone', 'anonymous_id', 'um-benphone');

-- Undone, the two are who they were.
SELECT person_id = :'ann' AS of_ann, became = :'ben' AS became_ben, identifiers FROM cdi_unmerge(merge => :merge_id, reason => 'a typing error');
SELECT * FROM pg_temp.people('um-%');
SELECT cdi_person('user_id', 'um-ann') = :'ann' AS ann, cdi_person('email', 'um-ben@x.example') = :'ben' AS ben;
SELECT undone_at IS NOT NULL AS undone FROM cdi.identity_merges WHERE merge_id = :merge_id;
SELECT kind, revoked_by = current_user AS by_me, reason FROM cdi.identity_revocations ORDER BY revocation_id DESC LIMIT 1;
SELECT person_id = :'ann' AS of_ann, became = :'ben' AS became_ben, identifiers FROM cdi.identity_splits ORDER BY split_id DESC LIMIT 1;
SELECT step, status, from_value, to_value, detail ~ '^undone by .*: a typing error$' AS says_why
FROM cdi_explain_identity('anonymous_id', 'um-annphone', 'anonymous_id', 'um-benphone');
-- The map is that of the history without it, and a rebuild keeps it so.
SELECT * FROM cdi_identity_check();
SELECT cdi_rebuild_identity() > 0 AS rebuilt;
SELECT * FROM pg_temp.people('um-%');

-- As of when: the link counts from when it happened, the unmerge from when it was made.
SELECT cdi_person_at('anonymous_id', 'um-benphone', '2026-05-02 12:00') = :'ben' AS before_the_merge,
       cdi_person_at('anonymous_id', 'um-benphone', '2026-05-03 12:00') = :'ann' AS between,
       cdi_person_at('anonymous_id', 'um-benphone', now() + interval '1 hour') = :'ben' AS after_the_unmerge,
       cdi_person_at('user_id', 'um-ann', '2026-01-01') = cdi_identifier('user_id', 'um-ann') AS before_everything,
       cdi_person_at('email', 'undefined', now()) IS NULL AS nobody;

-- Who came first then: the link that named at-old in the end had not happened yet.
SELECT cdi_identify('at-old', '{"email": "at-late@x.example"}', "timestamp" => '2026-05-20') IS NOT NULL AS late;
SELECT cdi_identify(traits => '{"email": "at-early@x.example"}', anonymous_id => 'at-mid', "timestamp" => '2026-05-10') IS NOT NULL AS early;
SELECT cdi_identify('at-old', anonymous_id => 'at-pad', "timestamp" => '2026-05-11') IS NOT NULL AS again;
SELECT cdi_identify('at-old', anonymous_id => 'at-mid', "timestamp" => '2026-05-12') IS NOT NULL AS one;
SELECT cdi_resolve();
SELECT cdi_person_at('user_id', 'at-old', '2026-05-15') = cdi_identifier('email', 'at-early@x.example') AS the_early_one,
       cdi_person_at('anonymous_id', 'at-pad', '2026-05-15') = cdi_identifier('email', 'at-early@x.example') AS with_what_it_brought,
       cdi_person_at('user_id', 'at-old', '2026-05-20') = cdi_identifier('user_id', 'at-old') AS the_late_one,
       cdi_person('user_id', 'at-old') = cdi_identifier('user_id', 'at-old') AS now;

-- What is said again counts again, and can be taken back again.
SELECT cdi_identify('um-ann', '{"email": "um-ben@x.example"}', "timestamp" => '2026-05-04') AS event \gset
SELECT cdi_resolve();
SELECT * FROM pg_temp.people('um-%');
SELECT count(*) FROM cdi_unmerge(event => :'event');
SELECT * FROM pg_temp.people('um-%');

-- An identifier leaves everybody it was linked with.
SELECT cdi_identify('um-ann', '{"email": "um-ann@x.example"}', anonymous_id => 'um-tablet', "timestamp" => '2026-05-05') IS NOT NULL AS identified;
SELECT cdi_track('um-ann', 'Seen', anonymous_id => 'um-tablet', "timestamp" => '2026-05-06') IS NOT NULL AS tracked;
SELECT count(*) FROM cdi_unmerge('anonymous_id', 'um-tablet');
SELECT * FROM pg_temp.people('um-%');
SELECT cdi_unmerge('anonymous_id', 'um-tablet');
SELECT cdi_track('um-ann', 'Seen', anonymous_id => 'um-tablet', "timestamp" => '2026-05-07') IS NOT NULL AS tracked;
SELECT cdi_resolve();
SELECT * FROM pg_temp.people('um-%');

-- What an unmerge lets others unite is a merge like any other.
SELECT cdi_identify(anonymous_id => 'uk-phone', traits => '{"age": 1}', "timestamp" => '2026-05-08') IS NOT NULL AS phone,
       cdi_track('uk-kim', 'Seen', anonymous_id => 'uk-phone', "timestamp" => '2026-05-09') AS kims,
       cdi_track('uk-kai', 'Seen', anonymous_id => 'uk-phone', "timestamp" => '2026-05-10') AS kais \gset
SELECT cdi_resolve();
SELECT position AS kims FROM cdi.identity_links WHERE event_id = :'kims' \gset
SELECT * FROM pg_temp.people('uk-%');
BEGIN;
CREATE TEMP TABLE scans ON COMMIT DROP AS SELECT relid, seq_scan FROM pg_stat_xact_all_tables WHERE schemaname = 'cdi';
SELECT count(*) FROM cdi_unmerge(link => :kims);
-- Each look went by an index, however few rows there are.
SELECT relname, t.seq_scan - s.seq_scan AS scans FROM pg_stat_xact_all_tables t JOIN scans s USING (relid) WHERE t.seq_scan > s.seq_scan AND relname IN ('identity_links', 'identity_map', 'identity_ahead');
COMMIT;
SELECT * FROM pg_temp.people('uk-%');
SELECT absorbed = cdi_identifier('user_id', 'uk-kai') AS kai, merged_at::date, event_id = :'kais' AS by_kais, merge_id < 0 AS below_zero, fold IS NULL AS no_fold, undone_at IS NULL AS counts
FROM cdi.identity_merges WHERE survivor = cdi_identifier('anonymous_id', 'uk-phone') ORDER BY merged_at;
SELECT merge_id FROM cdi.identity_merges WHERE absorbed = cdi_identifier('user_id', 'uk-kai') \gset
SELECT count(*) FROM cdi_unmerge(merge => :merge_id);
SELECT * FROM pg_temp.people('uk-%');
SELECT undone_at IS NOT NULL AS undone FROM cdi.identity_merges WHERE merge_id = :merge_id;
SELECT * FROM cdi_identity_check();

-- The oldest part keeps the id: what goes is who came later.
SELECT cdi_unmerge('user_id', 'um-ann', reason => 'two people') IS NOT NULL AS split;
SELECT cdi_person('user_id', 'um-ann') = :'ann' AS keeps_the_id;
SELECT * FROM pg_temp.people('um-%');

-- A link that others repeat: taken back, it changes nothing.
SELECT cdi_track('um-cleo', 'Seen', anonymous_id => 'um-laptop') IS NOT NULL AS first, cdi_track('um-cleo', 'Seen', anonymous_id => 'um-laptop') IS NOT NULL AS second;
SELECT cdi_resolve();
SELECT position FROM cdi.identity_links WHERE 'um-laptop' = ANY ("values") ORDER BY position LIMIT 1 \gset
SELECT count(*) AS splits FROM cdi_unmerge(link => :position);
SELECT * FROM pg_temp.people('um-%') WHERE identifiers LIKE '%cleo%';

-- What is refused under a limit comes together when the reason goes.
SELECT cdi_track('um-dan', 'Seen', anonymous_id => 'um-desk', "timestamp" => '2026-05-10') AS wrong \gset
SELECT cdi_track('um-eva', 'Seen', anonymous_id => 'um-desk', "timestamp" => '2026-05-11') IS NOT NULL AS refused;
SELECT cdi_resolve();
SELECT * FROM pg_temp.people('um-%') WHERE identifiers ~ 'dan|eva';
SELECT count(*) FROM cdi_unmerge(event => :'wrong');
SELECT * FROM pg_temp.people('um-%') WHERE identifiers ~ 'dan|eva';
SELECT * FROM cdi_identity_check();

-- Who holds together by one link alone.
UPDATE cdi.identifier_types SET max_per_person = NULL WHERE name = 'user_id';
SELECT count(cdi_track('um-g' || i % 2, 'Seen', anonymous_id => 'um-h' || i)) FROM generate_series(1, 4) i;
SELECT cdi_track('um-g0', 'Seen', anonymous_id => 'um-bridge') IS NOT NULL AS one, cdi_track('um-g1', 'Seen', anonymous_id => 'um-bridge') IS NOT NULL AS other;
SELECT cdi_resolve();
SELECT rule, identifiers, splits_off FROM cdi_identity_bridges(cdi_person('user_id', 'um-g0'));
SELECT section, value, detail FROM cdi.identity_health WHERE person_id = cdi_person('user_id', 'um-g0') AND section <> 'growth' ORDER BY 1, 2;
SELECT sum(value) = (SELECT count(DISTINCT person_id) FROM cdi.identity_map) AS everybody_is_counted FROM cdi.identity_health WHERE section = 'size';
-- Who grows by taking in others: two of 12 and 25, who were there before, become one.
UPDATE cdi.identifier_types SET max_per_person = NULL WHERE name = 'anonymous_id';
SELECT count(cdi_track('gr-' || i % 2, 'Seen', anonymous_id => 'gr-' || i)) FROM generate_series(0, 21) i;
SELECT count(cdi_track('gr-1', 'Seen', anonymous_id => 'gr-more' || i)) FROM generate_series(1, 13) i;
SELECT cdi_resolve();
CREATE TEMP TABLE real_times AS SELECT run, resolved_at FROM cdi.identity_runs;
UPDATE cdi.identity_runs SET resolved_at = resolved_at - interval '2 hours';
SELECT count(*) AS grown FROM cdi.identity_health WHERE section = 'growth';
SELECT cdi_alias('gr-0', 'gr-1') IS NOT NULL AS joined;
SELECT cdi_resolve();
SELECT value, alarm, person_id = cdi_person('user_id', 'gr-1') AS hers, detail FROM cdi.identity_health WHERE section = 'growth';
-- What is taken back has not grown.
SELECT count(*) FROM cdi_unmerge('user_id', 'gr-1');
SELECT count(*) AS grown FROM cdi.identity_health WHERE section = 'growth';
UPDATE cdi.identity_runs r SET resolved_at = t.resolved_at FROM real_times t WHERE t.run = r.run;
UPDATE cdi.identifier_types SET max_per_person = 5 WHERE name = 'anonymous_id';
UPDATE cdi.identifier_types SET max_per_person = 1 WHERE name = 'user_id';

-- Errors
SELECT cdi_unmerge();
SELECT cdi_unmerge('email');
SELECT cdi_unmerge('email', 'um-ann@x.example', link => 1);
SELECT cdi_unmerge('shoe_size', '42');
SELECT cdi_unmerge('email', 'nonsense');
SELECT cdi_unmerge('email', 'um-never-seen@x.example');
SELECT cdi_unmerge(link => -1);
SELECT cdi_unmerge(event => '00000000-0000-0000-0000-000000000000');
SELECT cdi_unmerge(merge => 0);
SELECT cdi_unmerge(merge => :merge_id);
SELECT cdi_person_at('shoe_size', '42', now());
SELECT * FROM cdi_explain_identity('user_id', 'um-never', 'user_id', 'um-seen');
BEGIN READ ONLY;
SELECT cdi_unmerge('email', 'um-ann@x.example');
ROLLBACK;

-- In a session that has not read the identifier types yet.
\c -
SELECT * FROM cdi_identity_check();
