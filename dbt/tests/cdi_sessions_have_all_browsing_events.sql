-- Every browsing event of a person is in exactly one session.
select
    (select coalesce(sum(s.events), 0) from {{ ref('cdi_sessions') }} as s) as in_sessions,
    count(*) as browsing
from {{ ref('stg_cdi__events') }} as e
where e.type in ('page', 'screen', 'track') and e.subject is not null
having count(*) <> (select coalesce(sum(s.events), 0) from {{ ref('cdi_sessions') }} as s)
