{{
  config(
    materialized='incremental',
    incremental_strategy='append',
    indexes=[{'columns': ['position'], 'unique': true}, {'columns': ['subject']}]
  )
}}

{#
  Positions grow with arrival, not with commit: a row may appear below one that
  is there already.  None can appear at or below the watermark, so this model
  goes up to it and no further, and the next run goes on from where this one
  ended without loss or repetition.
#}
select
    e.event_id,
    e.position,
    e.received_at,
    e."timestamp" as happened_at,
    s.name as source,
    e.type,
    e.event,
    e.category,
    e.subject,
    e.user_id,
    e.anonymous_id,
    e.group_id,
    {{ cdi.channel('e.campaign_source', 'e.campaign_medium', 'e.click_id_type', 'e.referrer_host', 'e.page_host', 'e.campaign_name', 'e.campaign_term', 'e.campaign_content') }} as channel,
    e.campaign_source,
    e.campaign_medium,
    e.campaign_name,
    e.campaign_term,
    e.campaign_content,
    e.click_id_type,
    e.referrer_host,
    e.page_host,
    e.context #>> '{page,path}' as page_path,
    e.properties
from {{ source('cdi', 'events') }} as e
join {{ source('cdi', 'sources') }} as s on s.source_id = e.source_id
where e.position <= {{ cdi.watermark() }}
{% if is_incremental() %}
  and e.position > (select coalesce(max(t.position), 0) from {{ this }} as t)
{% endif %}
