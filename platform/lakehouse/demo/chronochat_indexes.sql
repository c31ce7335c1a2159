create index users_created_at on users (created_at);
create index users_updated_at on users (updated_at);
create index user_usage_stats_updated_at on user_usage_stats (updated_at);
create index user_sessions_started_at on user_sessions (started_at);
create index user_sessions_last_activity_at on user_sessions (last_activity_at);
create index api_logs_created_at on api_logs (created_at);
create index user_preferences_updated_at on user_preferences (updated_at);
analyze users, user_usage_stats, user_sessions, api_logs, user_preferences;
