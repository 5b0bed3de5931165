"""What the controller writes to stderr: structured, with ids, never code or secrets."""

from __future__ import annotations

import logging
import sys

import structlog

from cellyard_controller.config import LogConfig


def configure(config: LogConfig) -> None:
    """Sets structlog up for this process."""
    level = logging.getLevelNamesMapping()[config.level.upper()]
    shown = (
        structlog.processors.JSONRenderer()
        if config.format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            shown,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
