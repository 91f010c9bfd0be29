-- Accounts and households: graphs of their own beside that of people.
SET client_min_messages = warning;
SELECT cdi_resolve() >= 0 AS resolved;
CREATE FUNCTION pg_temp.members(account text) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(format('%s (%s - %s)', u.names, m.first_at AT TIME ZONE 'UTC', m.last_at AT TIME ZONE 'UTC'), ', ' ORDER BY u.names)
    FROM cdi.account_members m,
         (SELECT cdi_person_of(e.subject) AS person_id, string_agg(DISTINCT coalesce(e.user_id, e.anonymous_id), '+') AS names
          FROM cdi.events e WHERE coalesce(e.user_id, e.anonymous_id) LIKE 'gr-%' GROUP BY 1) u
    WHERE m.account_id = cdi_person('group_id', account) AND u.person_id = m.person_id $$;

-- A group call links its account, beside the link of the person who sent it.
SELECT cdi_group('gr-ann', 'gr-acme', '{"name": "Acme", "email": "office@acme.example", "phone": "+14155552671"}', anonymous_id => 'gr-laptop',
                 "timestamp" => '2026-03-01 10:00+00', message_id => 'gr-1') IS NOT NULL AS stored;
SELECT l.rule, l.types, l."values", l.traits, l.position = e.position AS position_of_the_event, l.member = e.subject AS member
FROM cdi.identity_links l JOIN cdi.events e USING (event_id) WHERE e.message_id = 'gr-1' ORDER BY l.position;
SELECT e.subject = cdi_identifier('user_id', 'gr-ann') AS subject_is_the_person FROM cdi.events e WHERE e.message_id = 'gr-1';
SELECT cdi_group('gr-bob', 'gr-acme', '{"plan": "pro"}', "timestamp" => '2026-03-02 10:00+00') IS NOT NULL AS stored;
SELECT cdi_group(group_id => 'gr-acme', anonymous_id => 'gr-phone', "timestamp" => '2026-03-03 10:00+00') IS NOT NULL AS without_traits;
-- Only a group call says who belongs to an account.
SELECT cdi_track('gr-ann', 'Opened', '{"groupId": "gr-elsewhere"}', context => '{"groupId": "gr-elsewhere"}') IS NOT NULL AS no_group_call;
SELECT cdi_resolve();
SELECT named_at, identifiers, traits FROM cdi.accounts WHERE account_id = cdi_person('group_id', 'gr-acme');
SELECT count(*) AS persons FROM cdi.persons WHERE person_id = cdi_person('group_id', 'gr-acme');
SELECT identifiers, traits FROM cdi.persons WHERE person_id = cdi_person('user_id', 'gr-ann');
SELECT pg_temp.members('gr-acme');
SELECT count(*) FROM cdi.accounts WHERE account_id = cdi_person('group_id', 'gr-elsewhere');

-- People who turn out to be one show once, with the span of both.
SELECT cdi_identify('gr-ann', anonymous_id => 'gr-phone') IS NOT NULL AS stored;
SELECT cdi_group('gr-ann', 'gr-acme', "timestamp" => '2026-02-01 10:00+00') IS NOT NULL AS late;
SELECT cdi_resolve();
SELECT pg_temp.members('gr-acme');

-- Accounts unite by their own identifiers, and never with people.
SELECT cdi_set_identifier_type('gr_domain', '{"graph": "account", "paths": ["traits.domain"], "normaliser": "lower", "priority": 2}');
SELECT cdi_group('gr-cid', 'gr-initech', '{"domain": "Initech.Example"}', "timestamp" => '2026-03-04 10:00+00') IS NOT NULL AS stored;
SELECT cdi_ingest('{"type": "group", "userId": "gr-dan", "timestamp": "2026-03-04T11:00:00Z", "groupId": "undefined", "traits": {"domain": "initech.example", "size": 7},
                    "context": {"externalIds": [{"id": "gr-dan@x.example", "type": "email", "collection": "users", "encoding": "none"},
                                                {"id": "gr-initech-2", "type": "group_id", "collection": "accounts", "encoding": "none"}]}}');
SELECT cdi_ingest('{"type": "track", "event": "Opened", "userId": "gr-eve", "traits": {"domain": "initech.example"},
                    "context": {"externalIds": [{"id": "gr-initech", "type": "group_id", "collection": "accounts", "encoding": "none"}]}}');
SELECT cdi_resolve();
SELECT l.types, l."values" FROM cdi.identity_links l JOIN cdi.events e USING (event_id) WHERE e.user_id = 'gr-dan' ORDER BY l.position;
SELECT cdi_person('gr_domain', 'INITECH.example') = cdi_person('group_id', 'gr-initech') AS united,
       cdi_person('group_id', 'gr-initech-2') = cdi_person('group_id', 'gr-initech') AS limited;
SELECT r.type, r.value, r.reason FROM cdi.identity_refusals r JOIN cdi.events e USING (event_id) WHERE e.user_id IN ('gr-dan', 'gr-eve') ORDER BY r.reason, r.value;
SELECT identifiers, traits FROM cdi.accounts WHERE account_id = cdi_person('group_id', 'gr-initech');
SELECT pg_temp.members('gr-initech'), pg_temp.members('gr-initech-2');
-- The same value in two graphs is two things.
SELECT cdi_group('gr-same', 'gr-same') IS NOT NULL AS stored;
SELECT cdi_resolve();
SELECT cdi_person('user_id', 'gr-same') <> cdi_person('group_id', 'gr-same') AS distinct_ids;
SELECT count(*) AS crossing FROM cdi.identity_map m JOIN cdi.identity_map p ON p.identifier = m.person_id
JOIN cdi.identifier_types a ON a.type_id = m.type_id JOIN cdi.identifier_types b ON b.type_id = p.type_id WHERE a.graph <> b.graph;

-- Groups of different kinds may have the same id; protocols that have kinds tell them.
SELECT cdi_group('gr-ann', '7', '{"name": "company 7"}', context => '{"groupType": "company"}') IS NOT NULL AS company,
       cdi_group('gr-ann', '7', '{"name": "project 7"}', context => '{"groupType": "project"}') IS NOT NULL AS project,
       cdi_group('gr-ann', 'null', context => '{"groupType": "project"}') IS NOT NULL AS blocked;
SELECT cdi_resolve();
SELECT i.value, a.traits FROM cdi.accounts a JOIN cdi.person_identifiers i ON i.person_id = a.account_id WHERE i.value LIKE '%:7' ORDER BY 1;

-- Households: any call says who lives there; their links carry no traits.
SELECT cdi_identify('gr-ann', '{"householdId": "gr-home", "city": "Ulm"}', "timestamp" => '2026-03-01 10:00+00') IS NOT NULL AS stored;
SELECT cdi_track('gr-bob', 'Opened', context => '{"traits": {"household_id": "gr-home"}}', "timestamp" => '2026-03-05 10:00+00') IS NOT NULL AS stored;
SELECT cdi_group('gr-cid', 'gr-initech', '{"householdId": "gr-home"}') IS NOT NULL AS a_groups_trait;
SELECT cdi_resolve();
SELECT identifiers, traits FROM cdi.households WHERE household_id = cdi_person('household_id', 'gr-home');
SELECT m.person_id IN (cdi_person('user_id', 'gr-ann'), cdi_person('user_id', 'gr-bob')) AS lives_there, m.first_at, m.last_at
FROM cdi.household_members m WHERE m.household_id = cdi_person('household_id', 'gr-home') ORDER BY m.first_at;
SELECT cdi_person('user_id', 'gr-ann') <> cdi_person('user_id', 'gr-bob') AS still_two_people;

-- Folding in one run or in many, and a rebuild, give the same accounts.
CREATE TEMP TABLE kept AS SELECT * FROM cdi.account_members UNION ALL SELECT * FROM cdi.household_members;
CREATE TEMP TABLE accounts AS SELECT * FROM cdi.accounts;
SELECT cdi_rebuild_identity() > 0 AS rebuilt;
SELECT count(*) AS differences FROM (
    (TABLE kept EXCEPT (SELECT * FROM cdi.account_members UNION ALL SELECT * FROM cdi.household_members))
    UNION ALL ((SELECT * FROM cdi.account_members UNION ALL SELECT * FROM cdi.household_members) EXCEPT TABLE kept)) d;
SELECT count(*) AS differences FROM ((TABLE accounts EXCEPT TABLE cdi.accounts) UNION ALL (TABLE cdi.accounts EXCEPT TABLE accounts)) d;
-- A duplicate links nothing again.
SELECT count(*) AS links FROM cdi.identity_links \gset
SELECT cdi_group('gr-zoe', 'gr-acme', message_id => 'gr-1') IS NOT NULL AS stored;
SELECT count(*) - :links AS more FROM cdi.identity_links;

-- Readers see accounts as they see people.
CREATE ROLE cdi_test_groups;
SELECT cdi_grant_reader('cdi_test_groups');
SET ROLE cdi_test_groups;
SELECT count(*) > 0 AS accounts FROM cdi.accounts;
SELECT count(*) > 0 AS members FROM cdi.account_members;
SELECT count(*) > 0 AS households FROM cdi.households JOIN cdi.household_members USING (household_id);
RESET ROLE;
DROP OWNED BY cdi_test_groups;
DROP ROLE cdi_test_groups;
SELECT cdi_set_identifier_type('gr_domain', '{"paths": []}');
