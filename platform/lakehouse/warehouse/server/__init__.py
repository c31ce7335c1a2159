"""ClickHouse's HTTP interface over the embedded engine (chDB): one process, several clients, one data folder.

    python -m lakehouse.warehouse.server --port 8123 --path DIR

Clients made for ClickHouse's HTTP interface work unmodified. There is one user; LAKEHOUSE_SERVER_USER and
LAKEHOUSE_SERVER_PASSWORD in the environment say which. See https://clickhouse.com/docs/interfaces/http for the interface itself.
"""
