with browsing as (
    select
        coalesce(m.person_id, e.subject) as person_id,
        {{ cdi.campaign_key('e') }} as campaign_key,
        e.*
    from {{ ref('stg_cdi__events') }} as e
    left join {{ ref('stg_cdi__identity_map') }} as m on m.identifier = e.subject
    where e.type in ('page', 'screen', 'track') and e.subject is not null
      and not exists (select 1 from {{ source('cdi', 'touch_types') }} as k where e.type = 'track' and e.event = k.event)
      and (e.type = 'track' and e.event in ('Push Notification Received', 'Push Notification Bounced')) is not true
),

assigned as (
    select
        b.*,
        {{ cdi.session_id('b.event_id', 'b.happened_at', 'b.campaign_key') }} over w as session_id,
        {{ cdi.session_channel('b.event_id', 'b.happened_at', 'b.campaign_key', 'b.channel') }} over w as session_channel
    from browsing as b
    window w as (partition by b.person_id order by b.happened_at, b.position)
),

sessions as (
    select
        a.session_id,
        a.person_id,
        min(a.happened_at) as started_at,
        max(a.happened_at) as ended_at,
        count(*) as events,
        count(*) filter (where a.type in ('page', 'screen')) as page_views,
        max(a.session_channel) as channel,
        max(a.campaign_source) filter (where a.event_id = a.session_id) as campaign_source,
        max(a.campaign_medium) filter (where a.event_id = a.session_id) as campaign_medium,
        max(a.campaign_name) filter (where a.event_id = a.session_id) as campaign_name,
        {{ cdi.first('a.referrer_host', 'a.happened_at', 'a.position') }} filter (where a.channel <> 'direct') as referrer_host,
        {{ cdi.first("coalesce(a.page_path, a.event)", 'a.happened_at', 'a.position') }} filter (where a.type in ('page', 'screen')) as landing_page,
        min(a.position) filter (where a.event_id = a.session_id) as first_position,
        max(a.position) as last_position
    from assigned as a
    group by a.session_id, a.person_id
),

conversions as (
    select
        a.session_id,
        count(*) as conversions,
        sum(c.value) as conversion_value,
        min(c.value_currency) filter (where c.value is not null) as first_currency,
        max(c.value_currency) filter (where c.value is not null) as last_currency
    from {{ ref('stg_cdi__conversions') }} as c
    join assigned as a on a.event_id = c.event_id
    group by a.session_id
)

select
    s.session_id,
    s.person_id,
    s.started_at,
    s.ended_at,
    extract(epoch from s.ended_at - s.started_at)::double precision as duration_seconds,
    row_number() over (partition by s.person_id order by s.started_at, s.first_position) as session_number,
    s.events,
    s.page_views,
    coalesce(c.conversions, 0) as conversions,
    case when c.first_currency <> c.last_currency then null else coalesce(c.conversion_value, 0) end as conversion_value,
    s.channel,
    s.campaign_source,
    s.campaign_medium,
    s.campaign_name,
    s.referrer_host,
    s.landing_page,
    s.last_position
from sessions as s
left join conversions as c on c.session_id = s.session_id
