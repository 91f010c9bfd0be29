select
    c.event_id,
    c.conversion,
    c.person_id,
    c.converted_at,
    c.value,
    c.value_currency,
    c.position
from {{ source('cdi', 'conversion_events') }} as c
where c.position <= {{ cdi.watermark() }}
