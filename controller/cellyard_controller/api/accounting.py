"""What every call leaves behind, whichever way it came: counts, a span, a note in the audit log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import structlog

from cellyard_controller.api.auditing import Noted
from cellyard_controller.api.callers import Access
from cellyard_controller.api.counts import GONE, INTERNAL, OK
from cellyard_controller.errors import Refused
from cellyard_controller.store import StoreFailed
from cellyard_controller.store.errors import refusal
from cellyard_controller.tracing import CALL

log = structlog.get_logger()


class Failure(Exception):
    """Something went wrong in the controller; its log says what."""


@asynccontextmanager
async def accounted(
    access: Access, method: str, noted: Noted, headers: Sequence[tuple[str, str | bytes]] = ()
) -> AsyncIterator[None]:
    """While the block runs, a method (`Executions.Get`) is called. `headers`: those of the call, for its trace.

    Raises Refused for what was refused, the store's refusals too, and Failure for every defect.
    """
    calls, traces = access.calls, access.traces
    span = traces.call(method, headers) if traces is not None else None
    CALL.set(span)
    calls.open += 1
    outcome = OK
    try:
        yield
    except (Refused, StoreFailed) as failed:
        refused = failed if isinstance(failed, Refused) else refusal(failed)
        outcome = refused.reason.lower()
        calls.refused(refused)
        noted.refused(refused)
        raise refused from None
    except (asyncio.CancelledError, GeneratorExit):
        outcome = GONE
        raise
    except Exception:
        outcome = INTERNAL
        noted.failed()
        log.exception("a call failed", method=method)
        raise Failure from None
    finally:
        CALL.set(None)  # a connection's next request is another call
        calls.open -= 1
        calls.outcomes.add(method, outcome)
        if traces is not None and span is not None:
            traces.call_ended(span, outcome, noted.ids)
