"""chronochat, a chat application: users, visits, API calls and settings in Postgres, chats in MongoDB.

Rows of `append` tables never change, those of `upsert` tables change by their cursor, and `user_preferences` is small enough to
be read whole. A day's rows may still arrive up to six hours late.
"""

from datetime import timedelta

from lakehouse import Column, Source, Table, bucket, days

OWNERS = ("team:chat",)
LATE = timedelta(hours=6)

chronochat = Source(
    name="chronochat",
    kind="postgres",
    description="The operational database of chronochat.",
    owners=OWNERS,
    tables=(
        Table(
            name="users",
            mode="upsert",
            key=("id",),
            cursor="updated_at",
            event_time="created_at",
            deletes="sweep",
            lookback=LATE,
            partition=bucket("id", 4),
            # A tokenised address still tells whether two rows have the same one.
            personal={
                "email": "tokenise",
                "username": "tokenise",
                "first_name": "mask",
                "last_name": "mask",
                "profile_image_url": "drop",
            },
        ),
        Table(name="user_usage_stats", mode="upsert", key=("id",), cursor="updated_at", deletes="sweep", lookback=LATE),
        Table(
            name="user_sessions",
            mode="upsert",
            key=("id",),
            cursor="last_activity_at",
            event_time="started_at",
            deletes="sweep",
            lookback=LATE,
            partition=days("started_at"),
            personal={"ip_address": "tokenise"},
        ),
        Table(
            name="api_logs",
            mode="append",
            key=("id",),
            event_time="created_at",
            lookback=LATE,
            partition=days("created_at"),
            personal={"ip_address": "tokenise"},
        ),
        # The application fills it anew now and then: a moment at which it is empty is no reason to delete everything.
        Table(name="user_preferences", mode="snapshot", key=("id",), gone_at_most=0.5),
    ),
)

chronochat_mongo = Source(
    name="chronochat_mongo",
    kind="mongodb",
    description="The chats of chronochat.",
    owners=OWNERS,
    tables=(
        Table(
            name="conversations",
            mode="upsert",
            key=("_id",),
            cursor="updated_at",
            event_time="created_at",
            deletes="sweep",
            lookback=LATE,
            partition=bucket("_id", 4),
            description="Conversations of users with a model; one that is put away is archived.",
            personal={"title": "mask", "summary": "drop"},
            columns=(
                Column("_id", "string", "Object id of the document, as hexadecimal digits.", nullable=False),
                Column("conversation_id", "string", "Identifier that messages refer to."),
                Column("user_id", "string", "The user, by the identifier of the sign-in service."),
                Column("title", "string", "What the conversation is called; its first letter is left."),
                Column("summary", "string", "What the conversation was about; it stays at the source."),
                Column("created_at", "timestamp", "When the conversation began."),
                Column("updated_at", "timestamp", "When the conversation last changed."),
                Column("message_count", "int32", "Messages so far."),
                Column("total_tokens", "int32", "Tokens of all its messages."),
                Column("metadata", "json", "Anything else, of any shape."),
                Column("tags", "list<string>", "Words that the user filed it under."),
                Column("is_archived", "bool", "Whether the user has put it away."),
            ),
        ),
        Table(
            name="messages",
            mode="append",
            key=("_id",),
            event_time="created_at",
            lookback=LATE,
            partition=days("created_at"),
            description="What was said, by whom and to which model; never changed.",
            # `tokens` says how long a text was; the text itself has no business in a warehouse.
            personal={"content": "drop"},
            columns=(
                Column("_id", "string", "Object id of the document, as hexadecimal digits.", nullable=False),
                Column("conversation_id", "string", "The conversation."),
                Column("role", "string", "Who speaks: user, assistant or system."),
                Column("content", "string", "What was said; it stays at the source."),
                Column("created_at", "timestamp", "When it was said."),
                Column("model", "string", "Model that was asked or answered; absent for the system's words."),
                Column("provider", "string", "Company that runs the model."),
                Column("tokens", "int32", "Length of the text in tokens."),
                Column("metadata", "json", "Anything else, of any shape, or nothing."),
            ),
        ),
    ),
)
