"""What a client offers to the code that it runs. Checked here; nothing talks to anybody."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from cellyard import _requests
from cellyard.errors import InvalidRequest
from cellyard_proto.v1 import executions_pb2

HostCalls: TypeAlias = Mapping[str, Callable[..., Any]] | Iterable[Callable[..., Any]]
"""Functions by the name under which code calls them, or functions that are called by their own names."""


@dataclass(frozen=True, slots=True)
class Offers:
    """Functions, and who answers input()."""

    functions: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    on_input: Callable[[str], Any] | None = None

    def write(self, start: executions_pb2.Start) -> None:
        """Says so in a request."""
        start.host_calls.extend(sorted(self.functions))
        start.answers_input = self.on_input is not None


def offers(host_calls: object, on_input: object) -> Offers:
    """From a call's keywords. Raises InvalidRequest."""
    if on_input is not None and not callable(on_input):
        raise InvalidRequest(f"on_input must be a function, not {type(on_input).__name__}")
    return Offers(_functions(host_calls), on_input)


def _functions(host_calls: object) -> dict[str, Callable[..., Any]]:
    if isinstance(host_calls, Mapping):
        named = list(host_calls.items())
    elif isinstance(host_calls, Iterable) and not isinstance(host_calls, str | bytes):
        named = [(getattr(function, "__name__", ""), function) for function in host_calls]
    else:
        raise InvalidRequest(f"host_calls must be functions, by name or not, and not {type(host_calls).__name__}")
    for name, function in named:
        _requests.named("the name of a host call", name)
        if not callable(function):
            raise InvalidRequest(f"host_calls[{name!r}] must be a function, not {type(function).__name__}")
    return dict(named)
