"""Where spans go: an OTLP receiver, over HTTP, from a thread with a bounded queue. A slow one costs spans only."""

from __future__ import annotations

import logging
import threading
import time

import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from cellyard_controller.config import TracingConfig

_QUEUED = 4096
"""Spans that wait to be exported; what comes then is dropped."""
_EXPORT_WITHIN_S = 5.0
_EVERY_MS = 1000
_TELL_EVERY_S = 60.0

log = structlog.get_logger()


def provider(config: TracingConfig, version: str, controller_id: str) -> TracerProvider:
    """Exports to the configured endpoint; what is not configured here, the usual OTEL_* variables say."""
    telling = _Telling()
    for name in ("opentelemetry.sdk", "opentelemetry.exporter"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [telling], False
    about = {"service.name": "cellyard", "service.version": version, "service.instance.id": controller_id}
    made = TracerProvider(
        resource=Resource.create(about),
        span_limits=SpanLimits(max_attributes=32, max_events=64, max_attribute_length=512),
        shutdown_on_exit=False,  # it would wait for a dead receiver
    )
    exporter = OTLPSpanExporter(endpoint=config.endpoint or None, timeout=_EXPORT_WITHIN_S)
    made.add_span_processor(
        BatchSpanProcessor(exporter, max_queue_size=_QUEUED, schedule_delay_millis=_EVERY_MS, max_export_batch_size=512)
    )
    return made


def shut_down(made: TracerProvider, within_s: float) -> None:
    """Exports what is left, for so long at most. Blocks."""
    ending = threading.Thread(target=made.shutdown, name="tracing-end", daemon=True)
    ending.start()
    ending.join(within_s)


class _Telling(logging.Handler):
    """What goes wrong with exporting goes to the controller's log: once a minute, in one line."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._told_at = -_TELL_EVERY_S

    def emit(self, record: logging.LogRecord) -> None:
        """One thing that went wrong."""
        now = time.monotonic()
        if now >= self._told_at + _TELL_EVERY_S:
            self._told_at = now
            log.warning("spans are not exported", why=record.getMessage()[:300])
