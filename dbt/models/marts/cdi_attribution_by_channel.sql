select
    (a.converted_at at time zone 'UTC')::date as day,
    a.conversion,
    a.model,
    a.channel,
    sum(a.credit) as conversions,
    coalesce(sum(a.credited_value), 0) as value
from {{ ref('cdi_attribution') }} as a
group by 1, 2, 3, 4
