{{ config(order_by='clerk_user_id') }}

with

calls as (
    select
        day,
        assumeNotNull(clerk_user_id) as clerk_user_id,
        count() as api_calls,
        countIf(is_error) as api_errors,
        quantileExactInclusive(0.5)(response_time_ms) as latency_p50_ms,
        quantileExactInclusive(0.95)(response_time_ms) as latency_p95_ms
    from {{ ref('stg_api_logs') }} as logs
    where logs.clerk_user_id is not null and {{ built_days() }}
    group by day, clerk_user_id
),

visits as (
    select
        day,
        assumeNotNull(clerk_user_id) as clerk_user_id,
        count() as sessions,
        sum(minutes) as session_minutes
    from {{ ref('stg_user_sessions') }} as sessions_of_users
    where sessions_of_users.clerk_user_id is not null and {{ built_days() }}
    group by day, clerk_user_id
),

both as (
    select day, clerk_user_id, api_calls, api_errors, latency_p50_ms, latency_p95_ms, 0 as sessions, 0. as session_minutes
    from calls
    union all
    select day, clerk_user_id, 0, 0, null, null, sessions, session_minutes
    from visits
)

select
    day,
    clerk_user_id,
    sum(api_calls) as api_calls,
    sum(api_errors) as api_errors,
    if(api_calls = 0, null, api_errors / api_calls) as error_share,
    max(latency_p50_ms) as latency_p50_ms,
    max(latency_p95_ms) as latency_p95_ms,
    sum(sessions) as sessions,
    sum(session_minutes) as session_minutes,
    {{ built_at() }} as built_at
from both
group by day, clerk_user_id
