select
    _id as message_id,
    conversation_id,
    toDate(assumeNotNull(created_at), 'UTC') as day,
    coalesce(role, 'unknown') as role,
    coalesce(provider, 'none') as provider,
    coalesce(model, 'none') as model,
    coalesce(tokens, 0) as tokens,
    assumeNotNull(created_at) as created_at
from {{ source('chronochat_mongo', 'messages') }} as source
where source.created_at is not null
