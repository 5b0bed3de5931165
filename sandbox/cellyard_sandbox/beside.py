"""What a controller asks for beside the kernel: files, commands and packages, a flow each."""

from __future__ import annotations

import sys
from collections.abc import Callable

from cellyard_proto.beneath import Home
from cellyard_proto.v1 import link_pb2
from cellyard_sandbox import transfers
from cellyard_sandbox.commands import Command
from cellyard_sandbox.flows import Waker, Work, refused
from cellyard_sandbox.packages import Bringing, Packages, Telling
from cellyard_sandbox.processes import Processes

_SURVEY = (sys.executable, "-P", "-m", "cellyard_sandbox.survey")


class Beside:
    """Begins what flows are asked for."""

    def __init__(
        self, home: Home, processes: Processes, packages: Packages, environment: Callable[[], dict[str, str]]
    ) -> None:
        """`environment`: of the programs that are started."""
        self._home, self._processes, self._packages, self._environment = home, processes, packages, environment

    def begin(self, order: link_pb2.OpenFlow, waker: Waker) -> Work:
        """The work of one flow. Raises FlowRefused."""
        match order.WhichOneof("what"):
            case "write":
                return transfers.Writing(self._home, order.write)
            case "read":
                return transfers.Reading(self._home, order.read)
            case "list":
                return transfers.Listing(self._home, order.list)
            case "remove":
                return transfers.Removing(self._home, order.remove)
            case "run":
                return Command(self._processes, self._environment(), order.run, waker)
            case "survey":
                survey = link_pb2.RunCommand(
                    argv=_SURVEY, timeout_s=order.survey.timeout_s, max_output=order.survey.max_output
                )
                return Command(self._processes, self._environment(), survey, waker)
            case "bring":
                return Bringing(self._packages, order.bring)
            case "list_brought":
                return Telling(self._packages.told())
            case "remove_brought":
                return Telling(self._packages.remove(order.remove_brought.names))
        raise refused("this agent does not know how to do that")
