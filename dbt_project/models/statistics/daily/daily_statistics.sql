{{ config(order_by='day') }}

with

days as (
    {% if is_incremental() and requested_days() -%}
    select arrayJoin([{% for day in requested_days() %}toDate('{{ day }}'){{ ', ' if not loop.last }}{% endfor %}]) as day
    {%- else -%}
    {# A day on which nothing happened has its row too. #}
    select arrayJoin(arrayMap(step -> first_day + step, range(toUInt32(last_day - first_day + 1)))) as day
    from (
        select min(day) as first_day, max(day) as last_day
        from (
            select day from {{ ref('stg_users') }}
            union all select day from {{ ref('stg_user_sessions') }}
            union all select day from {{ ref('stg_api_logs') }}
            union all select day from {{ ref('stg_conversations') }}
            union all select day from {{ ref('stg_messages') }}
        )
        having count() > 0
    )
    {%- endif %}
),

users as (
    select day, sum(new_users) as new_users
    from {{ ref('daily_new_users') }}
    where {{ built_days() }}
    group by day
),

activity as (
    select day, count() as active_users
    from {{ ref('daily_user_activity') }}
    where {{ built_days() }}
    group by day
),

visits as (
    select day, sum(sessions) as sessions, sum(total_minutes) as minutes
    from {{ ref('daily_sessions') }}
    where {{ built_days() }}
    group by day
),

chats as (
    select day, count() as conversations
    from {{ ref('stg_conversations') }}
    where {{ built_days() }}
    group by day
),

said as (
    select day, sum(messages) as messages, sum(tokens) as tokens, sum(cost_usd) as cost_usd
    from {{ ref('daily_messages_by_model') }}
    where {{ built_days() }}
    group by day
),

calls as (
    select
        day,
        count() as api_calls,
        countIf(is_error) as errors,
        quantileExactInclusive(0.5)(response_time_ms) as latency_p50_ms,
        quantileExactInclusive(0.95)(response_time_ms) as latency_p95_ms,
        quantileExactInclusive(0.99)(response_time_ms) as latency_p99_ms
    from {{ ref('stg_api_logs') }}
    where {{ built_days() }}
    group by day
)

select
    days.day as day,
    coalesce(activity.active_users, 0) as active_users,
    coalesce(users.new_users, 0) as new_users,
    coalesce(visits.sessions, 0) as sessions,
    visits.minutes / visits.sessions as avg_session_minutes,
    coalesce(chats.conversations, 0) as conversations,
    coalesce(said.messages, 0) as messages,
    coalesce(said.tokens, 0) as tokens,
    coalesce(said.cost_usd, 0) as cost_usd,
    coalesce(calls.api_calls, 0) as api_calls,
    calls.errors / calls.api_calls as error_share,
    calls.latency_p50_ms as latency_p50_ms,
    calls.latency_p95_ms as latency_p95_ms,
    calls.latency_p99_ms as latency_p99_ms,
    {{ built_at() }} as built_at
from days
left join users on users.day = days.day
left join activity on activity.day = days.day
left join visits on visits.day = days.day
left join chats on chats.day = days.day
left join said on said.day = days.day
left join calls on calls.day = days.day
