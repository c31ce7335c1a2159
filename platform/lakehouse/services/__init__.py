"""The embedded servers of a deployment: start, health and stop."""

from lakehouse.services.dagster import dagster_home, write_instance
from lakehouse.services.environment import environment
from lakehouse.services.health import ServiceStatus
from lakehouse.services.supervisor import Services, not_running, start, start_ui, status, stop, stop_ui, ui_address

__all__ = [
    "ServiceStatus",
    "Services",
    "dagster_home",
    "environment",
    "not_running",
    "start",
    "start_ui",
    "status",
    "stop",
    "stop_ui",
    "ui_address",
    "write_instance",
]
