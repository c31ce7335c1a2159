{{ config(order_by='(endpoint, method)') }}

select
    day,
    endpoint,
    method,
    count() as calls,
    uniqExact(clerk_user_id) as users,
    countIf(is_error) as errors,
    countIf(status_code >= 500) as server_errors,
    errors / calls as error_share,
    quantileExactInclusive(0.5)(response_time_ms) as latency_p50_ms,
    quantileExactInclusive(0.95)(response_time_ms) as latency_p95_ms,
    quantileExactInclusive(0.99)(response_time_ms) as latency_p99_ms,
    {{ built_at() }} as built_at
from {{ ref('stg_api_logs') }}
where {{ built_days() }}
group by day, endpoint, method
