"""The four hops, composed of sources, raw log, lake tables and warehouse. Knows no Dagster."""
