-- Every browsing event of a person is in exactly one session.
select
    (select coalesce(sum(s.events), 0) from {{ ref('cdi_sessions') }} as s) as in_sessions,
    count(*) as browsing
from {{ ref('stg_cdi__events') }} as e
where e.type in ('page', 'screen', 'track') and e.subject is not null
  and not exists (select 1 from {{ source('cdi', 'touch_types') }} as k where e.type = 'track' and e.event = k.event)
  and (e.type = 'track' and e.event in ('Push Notification Received', 'Push Notification Bounced')) is not true
having count(*) <> (select coalesce(sum(s.events), 0) from {{ ref('cdi_sessions') }} as s)
