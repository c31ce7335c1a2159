{# The messages and tokens of a day are the same by model, in the headline, and in the staging layer. #}
with totals as (
    select day, 'staging' as layer, toInt64(count()) as messages, toInt64(sum(tokens)) as tokens
    from {{ ref('stg_messages') }} where {{ in_requested_days() }} group by day
    union all
    select day, 'model', toInt64(sum(messages)), toInt64(sum(tokens))
    from {{ ref('daily_messages_by_model') }} where {{ in_requested_days() }} group by day
    union all
    select day, 'headline', toInt64(messages), toInt64(tokens)
    from {{ ref('daily_statistics') }} where messages > 0 and {{ in_requested_days() }}
)
select day, count() as layers, groupUniqArray((messages, tokens)) as found
from totals group by day
having layers <> 3 or length(found) <> 1
