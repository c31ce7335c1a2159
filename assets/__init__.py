"""What this deployment runs: one file for each source."""

from assets.chronochat import chronochat, chronochat_mongo

SOURCES = (chronochat, chronochat_mongo)
