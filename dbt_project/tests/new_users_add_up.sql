{# The users who signed up on a day are the same by tier, in the headline, and in the staging layer. #}
with totals as (
    select day, 'staging' as layer, toUInt64(count()) as new_users
    from {{ ref('stg_users') }} where {{ in_requested_days() }} group by day
    union all
    select day, 'tier', toUInt64(sum(new_users))
    from {{ ref('daily_new_users') }} where {{ in_requested_days() }} group by day
    union all
    select day, 'headline', toUInt64(new_users)
    from {{ ref('daily_statistics') }} where new_users > 0 and {{ in_requested_days() }}
)
select day, count() as layers, groupUniqArray(new_users) as found
from totals group by day
having layers <> 3 or length(found) <> 1
