with events as (
    select
        coalesce(m.person_id, e.subject) as person_id,
        {{ cdi.last('e.user_id', 'e.happened_at', 'e.position') }} filter (where e.user_id is not null) as user_id,
        min(e.happened_at) as first_seen_at,
        max(e.happened_at) as last_seen_at,
        count(*) as events
    from {{ ref('stg_cdi__events') }} as e
    left join {{ ref('stg_cdi__identity_map') }} as m on m.identifier = e.subject
    where e.subject is not null
    group by coalesce(m.person_id, e.subject)
),

sessions as (
    select
        s.person_id,
        count(*) as sessions,
        sum(s.page_views)::bigint as page_views,
        max(s.channel) filter (where s.session_number = 1) as first_channel,
        {{ cdi.last('s.channel', 's.started_at', 's.session_number') }} as last_channel
    from {{ ref('cdi_sessions') }} as s
    group by s.person_id
),

conversions as (
    select
        c.person_id,
        count(*) as conversions,
        sum(c.value) as conversion_value,
        min(c.value_currency) filter (where c.value is not null) as first_currency,
        max(c.value_currency) filter (where c.value is not null) as last_currency
    from {{ ref('stg_cdi__conversions') }} as c
    group by c.person_id
)

select
    e.person_id,
    e.user_id,
    p.traits ->> 'email' as email,
    e.first_seen_at,
    e.last_seen_at,
    e.events,
    coalesce(s.page_views, 0) as page_views,
    coalesce(s.sessions, 0) as sessions,
    s.first_channel,
    s.last_channel,
    coalesce(c.conversions, 0) as conversions,
    case when c.first_currency <> c.last_currency then null else coalesce(c.conversion_value, 0) end as conversion_value
from events as e
left join sessions as s on s.person_id = e.person_id
left join conversions as c on c.person_id = e.person_id
left join {{ source('cdi', 'persons') }} as p on p.person_id = e.person_id
