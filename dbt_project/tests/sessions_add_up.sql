{# The visits of a day are the same by device, by user, in the headline, and in the staging layer. #}
with totals as (
    select day, 'staging' as layer, toUInt64(count()) as sessions
    from {{ ref('stg_user_sessions') }} where {{ in_requested_days() }} group by day
    union all
    select day, 'device', toUInt64(sum(sessions))
    from {{ ref('daily_sessions') }} where {{ in_requested_days() }} group by day
    union all
    select day, 'user', toUInt64(sum(sessions))
    from {{ ref('daily_user_activity') }} where sessions > 0 and {{ in_requested_days() }} group by day
    union all
    select day, 'headline', toUInt64(sessions)
    from {{ ref('daily_statistics') }} where sessions > 0 and {{ in_requested_days() }}
)
select day, count() as layers, groupUniqArray(sessions) as found
from totals group by day
having layers <> 4 or length(found) <> 1
