{# Rows that share the given columns; nulls count as equal. #}
{% test cdi_unique_columns(model, columns) %}
select {{ columns | join(', ') }}, count(*) as rows_alike
from {{ model }}
group by {{ columns | join(', ') }}
having count(*) > 1
{% endtest %}
