create table users (
  id uuid primary key,
  clerk_user_id text not null unique,
  email text,
  username text,
  first_name text,
  last_name text,
  profile_image_url text,
  subscription_tier text not null default 'free' check (subscription_tier in ('free', 'pro', 'enterprise')),
  is_active boolean not null default true,
  created_at timestamptz not null,
  updated_at timestamptz not null,
  last_login_at timestamptz,
  metadata jsonb not null default '{}'
);
comment on table users is 'People who have signed up; a closed account stays, with is_active false.';
comment on column users.id is 'Identifier of the user in this database.';
comment on column users.clerk_user_id is 'Identifier of the user at the sign-in service; every other table refers to it.';
comment on column users.email is 'Address that the user signs in with.';
comment on column users.username is 'Chosen public name, if any.';
comment on column users.first_name is 'Given name.';
comment on column users.last_name is 'Family name, if given.';
comment on column users.profile_image_url is 'Where the picture of the user is.';
comment on column users.subscription_tier is 'What the user pays for: free, pro or enterprise.';
comment on column users.is_active is 'False once the account was closed.';
comment on column users.created_at is 'When the user signed up.';
comment on column users.updated_at is 'When the row last changed.';
comment on column users.last_login_at is 'When the user last signed in; null before the first time.';
comment on column users.metadata is 'Anything else: campaign, locale, flags.';

create table user_usage_stats (
  id uuid primary key,
  clerk_user_id text not null,
  total_messages integer not null default 0,
  total_conversations integer not null default 0,
  total_tokens_used integer not null default 0,
  monthly_messages integer not null default 0,
  monthly_tokens integer not null default 0,
  month_year text not null,
  created_at timestamptz not null,
  updated_at timestamptz not null,
  unique (clerk_user_id, month_year)
);
comment on table user_usage_stats is 'Counters that the application keeps for each user and month.';
comment on column user_usage_stats.id is 'Identifier of the row.';
comment on column user_usage_stats.clerk_user_id is 'The user.';
comment on column user_usage_stats.total_messages is 'Messages of the user up to the end of the month.';
comment on column user_usage_stats.total_conversations is 'Conversations of the user up to the end of the month.';
comment on column user_usage_stats.total_tokens_used is 'Tokens of the user up to the end of the month.';
comment on column user_usage_stats.monthly_messages is 'Messages of the user in the month.';
comment on column user_usage_stats.monthly_tokens is 'Tokens of the user in the month.';
comment on column user_usage_stats.month_year is 'The month, as 2025-11.';
comment on column user_usage_stats.created_at is 'When the first message of the month was counted.';
comment on column user_usage_stats.updated_at is 'When the row last changed.';

create table user_sessions (
  id uuid primary key,
  clerk_user_id text not null,
  session_id text not null unique,
  ip_address text,
  user_agent text,
  device_type text,
  started_at timestamptz not null,
  last_activity_at timestamptz not null,
  ended_at timestamptz,
  metadata jsonb
);
comment on table user_sessions is 'Visits; a row changes until the visit has ended.';
comment on column user_sessions.id is 'Identifier of the row.';
comment on column user_sessions.clerk_user_id is 'The user.';
comment on column user_sessions.session_id is 'Identifier of the visit at the sign-in service.';
comment on column user_sessions.ip_address is 'Address that the visit came from.';
comment on column user_sessions.user_agent is 'What the browser said it was.';
comment on column user_sessions.device_type is 'desktop, mobile, tablet, or null when it could not be told.';
comment on column user_sessions.started_at is 'When the visit began.';
comment on column user_sessions.last_activity_at is 'When something last happened in the visit; grows with every change of the row.';
comment on column user_sessions.ended_at is 'When the visit ended; null while it is open or was abandoned.';
comment on column user_sessions.metadata is 'Anything else: screen, referrer, experiments.';

create table api_logs (
  id uuid primary key,
  clerk_user_id text,
  endpoint text not null,
  method text not null,
  status_code integer not null,
  response_time_ms double precision not null,
  ip_address text,
  user_agent text,
  error_message text,
  created_at timestamptz not null
);
comment on table api_logs is 'One row for each call of the API, never changed.';
comment on column api_logs.id is 'Identifier of the call.';
comment on column api_logs.clerk_user_id is 'The user; null for a call without a sign-in.';
comment on column api_logs.endpoint is 'Path of the call, without its query.';
comment on column api_logs.method is 'HTTP method.';
comment on column api_logs.status_code is 'HTTP status of the answer.';
comment on column api_logs.response_time_ms is 'Time until the answer was complete, in milliseconds.';
comment on column api_logs.ip_address is 'Address that the call came from.';
comment on column api_logs.user_agent is 'What the client said it was.';
comment on column api_logs.error_message is 'What went wrong, for statuses from 400 on.';
comment on column api_logs.created_at is 'When the call was answered.';

create table user_preferences (
  id uuid primary key,
  clerk_user_id text not null unique,
  preferred_ai_provider text not null default 'gemini' check (preferred_ai_provider in ('gemini', 'openai')),
  preferred_model text,
  temperature double precision,
  chat_theme text,
  language text,
  email_notifications boolean not null default true,
  preferences jsonb not null default '{}',
  created_at timestamptz not null,
  updated_at timestamptz not null
);
comment on table user_preferences is 'Settings of each user who has opened the settings page.';
comment on column user_preferences.id is 'Identifier of the row.';
comment on column user_preferences.clerk_user_id is 'The user.';
comment on column user_preferences.preferred_ai_provider is 'gemini or openai.';
comment on column user_preferences.preferred_model is 'Model that new conversations start with; null for the default of the provider.';
comment on column user_preferences.temperature is 'Sampling temperature, 0 to 2.';
comment on column user_preferences.chat_theme is 'Colours of the chat window.';
comment on column user_preferences.language is 'Language of the interface, as an IETF tag.';
comment on column user_preferences.email_notifications is 'Whether the user wants mail.';
comment on column user_preferences.preferences is 'Anything else, nested as the application likes.';
comment on column user_preferences.created_at is 'When the row was made.';
comment on column user_preferences.updated_at is 'When the row last changed.';
