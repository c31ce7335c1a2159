select
    id as user_id,
    assumeNotNull(clerk_user_id) as clerk_user_id,
    toDate(assumeNotNull(created_at), 'UTC') as day,
    coalesce(subscription_tier, 'unknown') as subscription_tier,
    coalesce(is_active, true) as is_active,
    assumeNotNull(created_at) as created_at,
    updated_at,
    last_login_at
from {{ source('chronochat', 'users') }} as source
where source.created_at is not null and source.clerk_user_id is not null
