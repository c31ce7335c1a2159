"""The example applications: their schemas, and a generator that fills them and lets them live on, deterministically."""

from lakehouse.demo.loading import load
from lakehouse.demo.report import Changes, Loading, LoadReport, TickReport
from lakehouse.demo.ticking import tick

__all__ = ["Changes", "LoadReport", "Loading", "TickReport", "load", "tick"]
