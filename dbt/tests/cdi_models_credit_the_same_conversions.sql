-- Models share out the same conversions: their totals differ by channel only.
select model
from (
    select
        b.model,
        round(sum(b.conversions)::numeric, 6) as conversions,
        sum(b.value) as value
    from {{ ref('cdi_attribution_by_channel') }} as b
    group by b.model
) as totals
where (conversions, value) is distinct from (
    select (round(sum(b.conversions)::numeric, 6), sum(b.value))
    from {{ ref('cdi_attribution_by_channel') }} as b
    where b.model = '{{ var("cdi_attribution_models")[0] }}'
)
