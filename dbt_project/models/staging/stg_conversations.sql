select
    conversation_id,
    user_id as clerk_user_id,
    toDate(assumeNotNull(created_at), 'UTC') as day,
    coalesce(message_count, 0) as message_count,
    coalesce(total_tokens, 0) as total_tokens,
    coalesce(is_archived, false) as is_archived,
    tags,
    assumeNotNull(created_at) as created_at,
    updated_at
from {{ source('chronochat_mongo', 'conversations') }} as source
where source.created_at is not null
