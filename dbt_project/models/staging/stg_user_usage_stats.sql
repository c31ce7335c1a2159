select
    id as usage_id,
    clerk_user_id,
    month_year as month,
    coalesce(monthly_messages, 0) as monthly_messages,
    coalesce(monthly_tokens, 0) as monthly_tokens,
    coalesce(total_messages, 0) as total_messages,
    coalesce(total_conversations, 0) as total_conversations,
    coalesce(total_tokens_used, 0) as total_tokens_used,
    updated_at
from {{ source('chronochat', 'user_usage_stats') }}
