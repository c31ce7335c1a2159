select
    id as preferences_id,
    clerk_user_id,
    preferred_ai_provider as provider,
    preferred_model as model,
    temperature,
    chat_theme,
    language,
    email_notifications,
    created_at,
    updated_at
from {{ source('chronochat', 'user_preferences') }}
