"""What hosts a kernel: the interface that `jupyter` implements, and what it tells the agent.

A host runs one kernel process at a time and one run at a time; the agent decides what runs when, how long,
and how much it may show.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from cellyard_proto.v1 import link_pb2, manner_pb2, outputs_pb2
from cellyard_sandbox.messages import Item


class StartFailed(Exception):
    """The kernel did not come up. The message says why, in a line."""


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a run ended that its kernel survived."""

    ok: bool
    execution_count: int
    value: outputs_pb2.Value | None
    reply_json: str = ""
    """See ExecutionEnded; "" where nothing was asked for."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a run used, as far as can be told."""

    cpu_s: float
    peak_memory_bytes: int


@dataclass(frozen=True, slots=True)
class HostCall:
    """A call of a function that the client offers."""

    name: str
    args_json: str
    """JSON as calls.proto's HostCall has it, unless the code that sent it has tampered with it."""
    kwargs_json: str


@dataclass(frozen=True, slots=True)
class Question:
    """What input() or getpass() asks."""

    prompt: str
    password: bool


Answer: TypeAlias = Callable[[link_pb2.CallAnswer], None]
"""Hands an answer to the code that waits for it; called once at most, and without effect where nobody waits."""


class HostListener(Protocol):
    """Who is told what happens in a kernel. Calls come from the event loop and must not block."""

    def run_started(self, run_id: str, execution_count: int) -> None:
        """The kernel has taken the run up."""

    def run_shown(self, run_id: str, item: Item) -> None:
        """Something was shown; also after the run's end, by what it left behind."""

    def run_unread(self, run_id: str) -> bool:
        """Whether text that this run writes is discarded, so that it need not be read."""

    def comm_sent(self, run_id: str, comm: outputs_pb2.Comm) -> None:
        """A comm's message for the front ends; `run_id` is that of the run it belongs to, "" for none."""

    def host_called(self, call: HostCall, answer: Answer) -> str:
        """The code calls a function. Returns the call's id, "" where it is answered already."""

    def host_call_dropped(self, call_id: str) -> None:
        """The caller of this call waits no more."""

    def input_asked(self, run_id: str, question: Question, answer: Answer) -> None:
        """The run asks for a line. It asks one question at a time: one that it asked before waits no more."""

    def run_ended(self, run_id: str, end: RunEnd) -> None:
        """The kernel is idle again and has answered; the next source may go out."""

    def kernel_died(self, reason: str) -> None:
        """The kernel ended by itself: "exit code 1", "signal 9", "oom: ...". No call about its run follows."""


class KernelHost(Protocol):
    """One kernel after the other, each in a process of its own."""

    async def start(self, env: Mapping[str, str]) -> None:
        """Starts a kernel, with these variables besides the agent's own; returns once it can run sources.

        Raises StartFailed.
        """

    async def stop(self) -> None:
        """Kills the kernel and all that it started; without one it does nothing. No call about it follows."""

    def set_environment(self, env: Mapping[str, str]) -> None:
        """Sets variables in the kernel that runs, before the next run; libraries that were imported may not notice."""

    def run(self, run_id: str, source: str, *, allow_stdin: bool, namespaces: bool, manner: manner_pb2.Manner) -> None:
        """Gives a source to the kernel. Only where no other run is under way.

        Without `allow_stdin`, input() raises in it. With `namespaces` it finds code mode's among its globals.
        """

    def interrupt(self, run_id: str) -> None:
        """Interrupts the run once, where it is under way now. It may go unheard: repeat it until the end."""

    def ask(self, order: link_pb2.AskKernel, answer: Callable[[link_pb2.Reply], None]) -> None:
        """Asks beside the runs; answered once, whatever becomes of the kernel."""

    def send_comm(self, comm: outputs_pb2.Comm) -> None:
        """Hands a front end's message to the code, once it is idle or waits in an `await`.

        Raises ValueError for one that is no comm message.
        """

    def hold(self) -> None:
        """Stops the kernel's processes where they are, until release(); an interrupt releases them too."""

    def release(self) -> None:
        """Lets the kernel's processes go on."""

    def usage(self) -> Usage:
        """What the run under way, or the last one, has used until now."""
