-- Under every model the shares of a conversion make one, and those of its value the value.
select
    a.model,
    a.conversion,
    a.conversion_event_id,
    sum(a.credit) as credit,
    sum(a.credited_value) as credited_value,
    min(a.value) as value
from {{ ref('cdi_attribution') }} as a
group by 1, 2, 3
having abs(sum(a.credit) - 1) > 1e-9 or sum(a.credited_value) <> min(a.value)
