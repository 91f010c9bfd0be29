-- A model of the user's own on the package's.
select channel, sum(value) as revenue
from {{ ref('cdi', 'cdi_attribution_by_channel') }}
where model = 'last_touch' and conversion = 'order'
group by channel
