"""How ends are told: what happened, and what the limit was. Pure."""

from __future__ import annotations

from cellyard_controller.executions.reports import Warned
from cellyard_controller.runtimes import Template
from cellyard_controller.sandboxes.lifecycle import EndReason
from cellyard_proto import amounts


def reason_of(said: str) -> str:
    """The typed part of what an agent says of its kernel's end: "oom", "exit code 3", "start_failed"."""
    return said.partition(": ")[0]


def kernel_died(said: str, template: Template | None) -> str:
    """A sentence for what an agent says of its kernel's end."""
    reason, _, more = said.partition(": ")
    if reason != EndReason.OOM:
        return f"the kernel died: {said}"
    return out_of_memory(template) + (f" ({more}, was killed)" if more else "")


def out_of_memory(template: Template | None) -> str:
    """A sandbox, or its kernel, was killed for its memory."""
    limit = f" of {amounts.size(template.memory_bytes)}" if template is not None else ""
    return f"{EndReason.OOM}: the sandbox used up its memory limit{limit}"


def timed_out(timeout_s: float | None, *, restarted: bool) -> str:
    """A cell took longer than it was given."""
    after = f"timed out after {amounts.duration(timeout_s)}" if timeout_s else "timed out"
    return after + ("; it ignored its interrupt and the kernel was restarted" if restarted else "")


def not_started(start_timeout_s: float) -> str:
    """A cell waited longer than it was to wait."""
    return f"it did not start within its start_timeout of {amounts.duration(start_timeout_s)}"


def idle(idle_timeout_s: float) -> str:
    """Nobody has used the sandbox."""
    return f"{EndReason.IDLE}: nobody used the kernel for its idle_timeout of {amounts.duration(idle_timeout_s)}"


def fresh_kernel(reason: str) -> Warned:
    """What the next user of a notebook is told whose kernel was taken away meanwhile."""
    why = _TAKEN_AWAY[EndReason(reason)]
    message = f"this is a new kernel, without the variables of the one before: that one {why}"
    return Warned("new_kernel", message, {"reason": reason})


_TAKEN_AWAY = {
    EndReason.EVICTED: "was evicted while it was idle, because somebody else needed the room",
    EndReason.IDLE: "was ended, because nobody used it for its idle_timeout",
    EndReason.TTL: "was ended at its ttl",
    EndReason.RUNTIME_LOST: "was lost with its sandbox",
    EndReason.NODE_LOST: "was lost with its machine",
}


def life_over(ttl_s: float) -> str:
    """It has lived as long as it was to live."""
    return f"{EndReason.TTL}: the kernel has reached its ttl of {amounts.duration(ttl_s)}"
