select
    m.identifier,
    m.person_id
from {{ source('cdi', 'identity_map') }} as m
