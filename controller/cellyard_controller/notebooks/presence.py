"""Who is there: the sessions of one notebook."""

from __future__ import annotations

from dataclasses import dataclass

from cellyard_controller.clock import steady
from cellyard_controller.ids import SessionId


@dataclass(slots=True)
class _Session:
    streams: int = 0
    gone_since: float = 0.0
    used_kernel: bool = False


class Presence:
    """Sessions that are attached, or gone for less than the grace. Changed by the room's task alone."""

    def __init__(self, grace_s: float) -> None:
        self._grace = grace_s
        self._sessions: dict[SessionId, _Session] = {}

    def attach(self, session_id: SessionId) -> None:
        """A stream of this session is open."""
        self._session(session_id).streams += 1

    def detach(self, session_id: SessionId) -> None:
        """A stream of this session has ended; with the last one its grace begins."""
        session = self._sessions.get(session_id)
        if session is not None:
            session.streams = max(0, session.streams - 1)
            if session.streams == 0:
                session.gone_since = steady()

    def used(self, session_id: SessionId) -> None:
        """This session uses the kernel."""
        if session_id:
            self._session(session_id).used_kernel = True

    def leave(self, session_id: SessionId) -> bool:
        """A clean exit. True where this was the last session that used the kernel."""
        left = self._sessions.pop(session_id, None)
        self.forget_gone()
        others = any(session.used_kernel for session in self._sessions.values())
        return left is not None and left.used_kernel and not others

    def forget_gone(self) -> None:
        """Sessions whose grace is over do not count any more."""
        now = steady()
        gone = [
            name
            for name, session in self._sessions.items()
            if session.streams == 0 and now - session.gone_since >= self._grace
        ]
        for name in gone:
            del self._sessions[name]

    @property
    def attached(self) -> int:
        """Sessions that are there."""
        return sum(session.streams > 0 for session in self._sessions.values())

    @property
    def anybody(self) -> bool:
        """Whether a session is there, or within its grace."""
        self.forget_gone()
        return bool(self._sessions)

    def _session(self, session_id: SessionId) -> _Session:
        return self._sessions.setdefault(session_id, _Session(gone_since=steady()))
