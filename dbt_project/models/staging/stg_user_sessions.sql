select
    session_id,
    clerk_user_id,
    toDate(assumeNotNull(started_at), 'UTC') as day,
    coalesce(device_type, 'unknown') as device_type,
    assumeNotNull(started_at) as started_at,
    last_activity_at,
    ended_at,
    dateDiff('microsecond', started_at, coalesce(ended_at, last_activity_at, started_at)) / 60e6 as minutes
from {{ source('chronochat', 'user_sessions') }} as source
where source.started_at is not null
