{{ config(order_by='subscription_tier') }}

select
    day,
    subscription_tier,
    count() as new_users,
    countIf(is_active) as still_active,
    {{ built_at() }} as built_at
from {{ ref('stg_users') }}
where {{ built_days() }}
group by day, subscription_tier
