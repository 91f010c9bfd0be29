{#
  The extension's functions, as expressions.  Each goes through
  adapter.dispatch, so a project can put its own in front of ours:

      dispatch:
        - macro_namespace: cdi
          search_order: [my_project, cdi]
#}

{% macro function_name(name) -%}
  {{ adapter.quote(var('cdi_functions_schema', 'public')) }}.{{ name }}
{%- endmacro %}

{% macro watermark() -%}
  {{ return(adapter.dispatch('watermark', 'cdi')()) }}
{%- endmacro %}

{% macro default__watermark() -%}
  {{ cdi.function_name('cdi_watermark') }}()
{%- endmacro %}

{% macro channel(campaign_source, campaign_medium, click_id_type, referrer_host, page_host, campaign_name='null', campaign_term='null', campaign_content='null') -%}
  {{ return(adapter.dispatch('channel', 'cdi')(campaign_source, campaign_medium, click_id_type, referrer_host, page_host, campaign_name, campaign_term, campaign_content)) }}
{%- endmacro %}

{% macro default__channel(campaign_source, campaign_medium, click_id_type, referrer_host, page_host, campaign_name, campaign_term, campaign_content) -%}
  {{ cdi.function_name('cdi_channel') }}({{ campaign_source }}, {{ campaign_medium }}, {{ click_id_type }}, {{ referrer_host }}, {{ page_host }}, {{ campaign_name }}, {{ campaign_term }}, {{ campaign_content }})
{%- endmacro %}

{# relation: alias of a relation with the campaign's columns #}
{% macro campaign_key(relation) -%}
  {{ return(adapter.dispatch('campaign_key', 'cdi')(relation)) }}
{%- endmacro %}

{% macro default__campaign_key(relation) -%}
  {{ cdi.function_name('cdi_campaign_key') }}({{ relation }}.campaign_source, {{ relation }}.campaign_medium, {{ relation }}.campaign_name, {{ relation }}.campaign_term, {{ relation }}.campaign_content, {{ relation }}.click_id_type)
{%- endmacro %}

{# Window functions: follow them with OVER (PARTITION BY person ORDER BY time, position). midnight and cut are expressions. #}
{% macro session_id(event_id, happened_at, campaign, gap=none, midnight='null', cut='null') -%}
  {{ return(adapter.dispatch('session_id', 'cdi')(event_id, happened_at, campaign, gap or var('cdi_session_gap', '30 minutes'), midnight, cut)) }}
{%- endmacro %}

{% macro default__session_id(event_id, happened_at, campaign, gap, midnight, cut) -%}
  {{ cdi.function_name('cdi_session_id') }}({{ event_id }}, {{ happened_at }}, {{ campaign }}, interval '{{ gap }}', {{ midnight }}, {{ cut }})
{%- endmacro %}

{% macro session_channel(event_id, happened_at, campaign, channel, gap=none, midnight='null', cut='null') -%}
  {{ return(adapter.dispatch('session_channel', 'cdi')(event_id, happened_at, campaign, channel, gap or var('cdi_session_gap', '30 minutes'), midnight, cut)) }}
{%- endmacro %}

{% macro default__session_channel(event_id, happened_at, campaign, channel, gap, midnight, cut) -%}
  {{ cdi.function_name('cdi_session_channel') }}({{ event_id }}, {{ happened_at }}, {{ campaign }}, interval '{{ gap }}', {{ channel }}, {{ midnight }}, {{ cut }})
{%- endmacro %}

{# Aggregates: the value with the earliest or latest time. #}
{% macro first(value, happened_at, position) -%}
  {{ return(adapter.dispatch('first', 'cdi')(value, happened_at, position)) }}
{%- endmacro %}

{% macro default__first(value, happened_at, position) -%}
  {{ cdi.function_name('cdi_first') }}({{ value }}, {{ happened_at }}, {{ position }})
{%- endmacro %}

{% macro last(value, happened_at, position) -%}
  {{ return(adapter.dispatch('last', 'cdi')(value, happened_at, position)) }}
{%- endmacro %}

{% macro default__last(value, happened_at, position) -%}
  {{ cdi.function_name('cdi_last') }}({{ value }}, {{ happened_at }}, {{ position }})
{%- endmacro %}

{% macro property_number(properties, property) -%}
  {{ return(adapter.dispatch('property_number', 'cdi')(properties, property)) }}
{%- endmacro %}

{% macro default__property_number(properties, property) -%}
  {{ cdi.function_name('cdi_property_number') }}({{ properties }}, '{{ property | replace("'", "''") }}')
{%- endmacro %}

{# A relation for FROM: one row per conversion and touchpoint with credit. #}
{% macro attribution(model='last_touch', conversion=none, from_time=none, to_time=none, lookback=none) -%}
  {{ return(adapter.dispatch('attribution', 'cdi')(model, conversion, from_time, to_time, lookback)) }}
{%- endmacro %}

{% macro default__attribution(model, conversion, from_time, to_time, lookback) -%}
  {{ cdi.function_name('cdi_attribution') }}(model => '{{ model }}'
  {%- if conversion is not none %}, conversion => '{{ conversion | replace("'", "''") }}'{% endif %}
  {%- if from_time is not none %}, from_time => timestamptz '{{ from_time }}'{% endif %}
  {%- if to_time is not none %}, to_time => timestamptz '{{ to_time }}'{% endif %}
  {%- if lookback is not none %}, lookback => interval '{{ lookback }}'{% endif %})
{%- endmacro %}
