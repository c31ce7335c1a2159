{# The calls and errors of a day are the same by endpoint, in the headline, and in the staging layer. #}
with totals as (
    select day, 'staging' as layer, toUInt64(count()) as calls, toUInt64(countIf(is_error)) as errors
    from {{ ref('stg_api_logs') }} where {{ in_requested_days() }} group by day
    union all
    select day, 'endpoint', sum(calls), sum(errors)
    from {{ ref('daily_api_by_endpoint') }} where {{ in_requested_days() }} group by day
    union all
    select day, 'headline', api_calls, toUInt64(round(coalesce(error_share, 0) * api_calls))
    from {{ ref('daily_statistics') }} where api_calls > 0 and {{ in_requested_days() }}
)
select day, count() as layers, groupUniqArray((calls, errors)) as found
from totals group by day
having layers <> 3 or length(found) <> 1
