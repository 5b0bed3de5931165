"""A room's way to the store: what it decided is on disk before anybody sees it.

Changes are of two kinds. Accepting work and editing the document are changes that a failed commit takes back: the
caller is refused. What has happened anyway (output, ends, a lost kernel) is kept in memory and written with the next
commit that succeeds; nobody sees it before.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import structlog
from sqlalchemy.exc import IntegrityError

from cellyard_controller import faults
from cellyard_controller.errors import Refused, Unavailable
from cellyard_controller.executions.journal import Journal, Row
from cellyard_controller.ids import NotebookRef
from cellyard_controller.notebooks.kernel import Kernel
from cellyard_controller.sandboxes import records as sandbox_records
from cellyard_controller.store import Store, StoreFailed, requests
from cellyard_controller.store.errors import refusal
from cellyard_controller.store.requests import Request

T = TypeVar("T")

RETRY_AFTER = 1.0
"""Seconds until what a failed commit left is tried again."""

log = structlog.get_logger()


@dataclass(slots=True)
class Change:
    """Steps of a transaction, and what to do once they are on disk."""

    rows: list[Row] = field(default_factory=list)
    done: list[Callable[[], None]] = field(default_factory=list)


class Ledger:
    """Commits for one room. Used by the room's task alone."""

    def __init__(
        self,
        ref: NotebookRef,
        store: Store,
        journal: Journal,
        kernel: Kernel,
        flush_in: Callable[[float], None],
    ) -> None:
        """`flush_in`: asks the room to call `flush` after some seconds at the latest."""
        self._ref, self._store, self._journal, self._kernel = ref, store, journal, kernel
        self._flush_in = flush_in
        self.kept = Change()
        self._over: Refused | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing waits to be written."""
        return not self.kept.rows and self._journal.size == 0 and not self._unnumbered()

    def abandon(self, why: Refused) -> None:
        """Nothing more is written: commits raise this."""
        self._over = why

    async def commit(self, change: Change | None = None) -> None:
        """Writes what is kept and this change in one transaction, then does what waited for it.

        Raises Unavailable where the store takes no writes: then this change is void, what is kept stays kept and is
        tried again. Raises IntegrityError where the change repeats a request.
        """
        if self._over is not None:
            raise self._over
        kept, number, sandbox = self.kept, self._kernel.received, self._kernel.sandbox
        rows, published = self._journal.unwritten()
        rows = [*kept.rows, *rows]
        if sandbox is not None and self._unnumbered():
            rows.append(partial(sandbox_records.set_committed, sandbox_id=sandbox.sandbox_id, number=number))
        rows += change.rows if change else []
        if rows:
            try:
                await self._store.write(partial(_run_all, rows))
            except StoreFailed as failed:
                if self._over is not None:
                    raise self._over from failed
                self._flush_in(RETRY_AFTER)
                log.error("the store takes no writes", notebook_id=self._ref.notebook_id, why=str(failed))
                raise refusal(failed) from failed
            except IntegrityError:
                self._flush_in(0)
                raise
        self.kept = Change()
        for publish in published:
            publish()
        if sandbox is not None and self._unnumbered():
            faults.point("reports-committed")
            self._kernel.committed = number
            sandbox.link.acknowledge(number)
        for act in [*kept.done, *(change.done if change else [])]:
            act()
        self._journal.forget_ended()

    async def flush(self) -> None:
        """Writes what is kept; where that fails it is tried again."""
        try:
            await self.commit()
        except Unavailable:
            pass  # logged, and the next flush is asked for

    def remember(self, request: Request, answer: str, change: Change) -> None:
        """Notes that a request is carried out by this change, which fails where the id is taken."""
        if request.request_id:
            change.rows.append(partial(requests.remember, tenant=self._ref.tenant, request=request, answer=answer))

    async def answered(self, request: Request) -> str | None:
        """What a request was answered before. Raises InvalidRequest where its id came with other content."""
        return await requests.answer_to(self._store, self._ref.tenant, request)

    async def commit_done(self, request: Request, answer: str = "") -> None:
        """Writes what is kept, and that this request is carried out, which was not known to be repeated before.

        One of another notebook that took its id meanwhile does not undo what has happened: then nothing is noted.
        """
        change = Change()
        self.remember(request, answer, change)
        try:
            await self.commit(change)
        except IntegrityError:
            await self.commit()

    async def once(
        self, request: Request, attempt: Callable[[], Awaitable[T]], again: Callable[[str], Awaitable[T]]
    ) -> T:
        """Carries a request out once: a repeated one gets what `again` makes of the first answer.

        A request that is not repeated costs nothing: that it was is seen by what it runs into.
        """
        try:
            return await attempt()
        except (Refused, IntegrityError):
            answer = await self.answered(request)
            if answer is None:
                raise
            return await again(answer)

    def _unnumbered(self) -> bool:
        """Whether the sandbox's agent waits to hear that its reports are on disk; of one that is gone nobody does."""
        return self._kernel.sandbox is not None and self._kernel.received > self._kernel.committed


def _run_all(rows: list[Row], connection: Any) -> None:
    for row in rows:
        row(connection)
