select
    id as call_id,
    clerk_user_id,
    toDate(assumeNotNull(created_at), 'UTC') as day,
    coalesce(endpoint, 'unknown') as endpoint,
    coalesce(method, 'unknown') as method,
    assumeNotNull(status_code) as status_code,
    status_code >= 400 as is_error,
    response_time_ms,
    assumeNotNull(created_at) as created_at
from {{ source('chronochat', 'api_logs') }} as source
where source.created_at is not null and source.status_code is not null
