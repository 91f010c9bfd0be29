-- The one place where privileges are set.  Nothing is for PUBLIC that
-- test/lint/public.txt does not list.

-- Whatever the default privileges are: start from none.
DO $$
DECLARE
    f regprocedure;
BEGIN
    FOR f IN
        SELECT p.oid::regprocedure
        FROM pg_depend d JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
        WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
          AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'cdi')
    LOOP
        EXECUTE format('REVOKE ALL ON ROUTINE %s FROM PUBLIC', f);
    END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION cdi_grant_reader(role name)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    f regprocedure;
    v regclass;
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA cdi, cdi_bi TO %I', role);
    EXECUTE format('GRANT SELECT ON cdi.events, cdi.failed_events, cdi.imports, cdi.pipeline_deltas, cdi.pipeline_counts, cdi.watermark, '
        'cdi.identity_links, cdi.identity_map, cdi.identity_runs, cdi.identity_ahead, cdi.identity_merge_log, cdi.identity_rules, cdi.identity_refusals, cdi.identity_revocations, cdi.identity_splits, cdi.group_members, cdi.identifier_traits, cdi.computed_trait_deltas, cdi.computed_trait_cursor, cdi.computed_trait_backfills, cdi.computed_trait_values, cdi.computed_trait_counts, '
        'cdi.spend, cdi.exchange_rates, cdi.outbox, cdi.push_cursor, cdi.event_stream_counts, cdi.sync_runs, cdi.sync_rows, cdi.deliveries, cdi.failed_deliveries, cdi.destination_pauses, cdi.push_waits TO %I', role);
    EXECUTE format('GRANT SELECT (source_id, name, enabled, created_at, rotated_at, rate_limit, rate_burst, max_body, allowed_origins, keep_original, client_address, cookieless, person_traits) ON cdi.sources TO %I', role);
    EXECUTE format('GRANT SELECT ON cdi.identifier_types, cdi.trait_policies, cdi.computed_traits, cdi.conversions, cdi.virtual_events, cdi.channels, '
        'cdi.channel_rules, cdi.channel_sites, cdi.destinations, cdi.destination_specs, cdi.syncs, cdi.session_settings, '
        'cdi.touch_types TO %I', role);
    FOR v IN
        SELECT c.oid::regclass FROM pg_class c
        WHERE c.relkind = 'v' AND c.relnamespace IN ('cdi'::regnamespace, 'cdi_bi'::regnamespace)
    LOOP
        EXECUTE format('GRANT SELECT ON %s TO %I', v, role);
    END LOOP;
    FOR f IN SELECT cdi._reader_functions() LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', f, role);
    END LOOP;
END
$$;
COMMENT ON FUNCTION cdi_grant_reader(name) IS 'Lets a role read events, people and reports, and nothing else. Run it again after an upgrade that adds views.';

CREATE OR REPLACE FUNCTION cdi._reader_functions()
RETURNS SETOF regprocedure
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT p.oid::regprocedure
FROM pg_extension e
JOIN pg_proc p ON p.pronamespace IN (e.extnamespace, 'cdi'::regnamespace)
WHERE e.extname = 'cdi'
  AND p.proname IN ('_workers', '_push_in_flight', '_source_activity', '_payload_text', 'cdi_watermark', 'cdi_person', 'cdi_person_at',
                    'cdi_person_of', 'cdi_identifier', 'cdi_explain_identity', 'cdi_identity_bridges', 'cdi_identity_check', '_people_before',
                    'cdi_person_traits', 'cdi_resolve', 'cdi_attribution', 'cdi_channel', 'cdi_channel_rules', 'cdi_campaign',
                    'cdi_campaign_key', 'cdi_session_id', 'cdi_session_channel', 'cdi_first', 'cdi_last', 'cdi_property_number',
                    'cdi_markov', 'cdi_shapley', 'cdi_shapley_ordered', 'cdi_logistic', 'cdi_hazard', 'cdi_window_funnel',
                    'cdi_funnel', 'cdi_funnel_paths', '_canonical_predicate', '_unknown_virtual_event', 'cdi_event_predicate',
                    'cdi_virtual_event_rows', 'cdi_flow_path', 'cdi_flows', 'cdi_top_paths', 'cdi_flows_mermaid',
                    'cdi_attribution_report', '_attribution_sums', '_conversion_values', '_usable_value', '_first_within',
                    'cdi_touch_credit', 'cdi_path_transform', 'cdi_funnel_report', 'cdi_funnel_people', '_step_condition',
                    '_people_events', '_funnel_query', '_journey_touches', '_journey_converts',
                    '_virtual_event_rows', '_reach_touches', '_reach_periods', 'cdi_reach', 'cdi_frequency', 'cdi_reach_increments',
                    'cdi_channel_reach', 'cdi_reach_overlap', 'cdi_incremental_reach', 'cdi_reach_curve', 'cdi_event_matches',
                    'cdi_retention', 'cdi_retention_conditions', 'cdi_retention_counts', 'cdi_history', 'cdi_stickiness',
                    'cdi_stickiness_counts', 'cdi_stickiness_distribution', '_stickiness', '_activity_query', 'cdi_lifecycle',
                    'cdi_lifecycle_counts', 'cdi_cohorts', 'cdi_behavioural_cohort', 'cdi_sequence_match', 'cdi_sequence_count',
                    'cdi_sequence_events', 'cdi_sequence_next_node', 'cdi_markov_transitions', 'cdi_markov_order')
$$;
COMMENT ON FUNCTION cdi._reader_functions() IS 'Internal: the functions that a reader may call.';

CREATE OR REPLACE FUNCTION cdi_grant_admin(role name)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    f regprocedure;
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA cdi, cdi_bi TO %I', role);
    EXECUTE format('GRANT USAGE ON SCHEMA cdi TO %I WITH GRANT OPTION', role);  -- cdi_grant_source() passes on
    EXECUTE format('GRANT INSERT ON cdi.import TO %I WITH GRANT OPTION', role);     -- both
    EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA cdi, cdi_bi TO %I', role);
    EXECUTE format('REVOKE ALL ON cdi.identity_key FROM %I', role);
    EXECUTE format('GRANT INSERT, UPDATE, DELETE ON cdi.sources, cdi.source_grants, cdi.source_keys, cdi.secrets, cdi.webhooks, cdi.identifier_types, '
        'cdi.computed_traits, cdi.conversions, cdi.channel_sites, cdi.spend, cdi.exchange_rates, cdi.session_settings, cdi.touch_types, '
        'cdi.failed_events, cdi.imports, cdi.pipeline_deltas, cdi.failed_deliveries TO %I', role);
    EXECUTE format('GRANT INSERT ON cdi.secret_entry, cdi.channels, cdi.channel_rules TO %I', role);
    EXECUTE format('GRANT USAGE ON ALL SEQUENCES IN SCHEMA cdi TO %I', role);
    FOR f IN
        SELECT p.oid::regprocedure
        FROM pg_depend d JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
        WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
          AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'cdi')
          AND p.proname NOT IN ('cdi_init', 'cdi_drop_data', 'cdi_grant_reader', 'cdi_grant_admin', '_grant_storage') AND p.proname NOT LIKE '%create_storage%'
    LOOP
        EXECUTE format('GRANT EXECUTE ON ROUTINE %s TO %I WITH GRANT OPTION', f, role);
    END LOOP;
END
$$;
COMMENT ON FUNCTION cdi_grant_admin(name) IS 'Lets a role administer sources, conversions, destinations and syncs, replay failed events and let roles send events (cdi_grant_source). Readers are granted by the owner.';

CREATE OR REPLACE FUNCTION cdi._grant_storage()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Whatever the default privileges of the owner are: data is for nobody yet.
    REVOKE ALL ON ALL TABLES IN SCHEMA cdi, cdi_bi FROM PUBLIC;
    REVOKE ALL ON ALL SEQUENCES IN SCHEMA cdi FROM PUBLIC;
END
$$;
COMMENT ON FUNCTION cdi._grant_storage() IS 'Internal: privileges on the data.';

REVOKE ALL ON FUNCTION cdi_grant_reader(name), cdi_grant_admin(name), cdi._reader_functions(), cdi._grant_storage() FROM PUBLIC;
