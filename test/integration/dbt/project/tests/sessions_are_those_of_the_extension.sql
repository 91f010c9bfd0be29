-- With the default gap, and nobody sending events, the package's sessions are
-- the rows of cdi.sessions.
with ours as (
    select session_id, person_id, started_at, ended_at, events, page_views, conversions, channel, campaign_source, campaign_medium, campaign_name, referrer_host, landing_page, last_position
    from {{ ref('cdi', 'cdi_sessions') }}
),
theirs as (
    select session_id, person_id, started_at, ended_at, events, page_views, conversions, channel, campaign_source, campaign_medium, campaign_name, referrer_host, landing_page, last_position
    from {{ source('cdi', 'sessions') }}
)
(select * from ours except all select * from theirs)
union all
(select * from theirs except all select * from ours)
