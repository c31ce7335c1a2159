{{ config(order_by='device_type') }}

select
    day,
    device_type,
    count() as sessions,
    uniqExact(clerk_user_id) as users,
    countIf(ended_at is not null) as ended_sessions,
    sum(minutes) as total_minutes,
    avg(minutes) as avg_minutes,
    quantileExactInclusive(0.5)(minutes) as median_minutes,
    {{ built_at() }} as built_at
from {{ ref('stg_user_sessions') }}
where {{ built_days() }}
group by day, device_type
