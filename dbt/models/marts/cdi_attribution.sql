-- depends_on: {{ source('cdi', 'touchpoints') }}
-- depends_on: {{ source('cdi', 'conversion_events') }}
{% for model in var('cdi_attribution_models') %}
select
    '{{ model }}' as model,
    a.conversion_event_id,
    a.conversion,
    a.person_id,
    a.converted_at,
    a.value,
    a.session_id,
    a.touched_at,
    a.channel,
    a.campaign_source,
    a.campaign_medium,
    a.campaign_name,
    a.touch,
    a.touches,
    a.credit,
    a.credited_value
from {{ cdi.attribution(model, from_time=var('cdi_attribution_from', none), lookback=var('cdi_attribution_lookback', none)) }} as a
{% if not loop.last %}union all{% endif %}
{% endfor %}
