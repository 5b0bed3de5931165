"""Comms, on which widgets live: the `comm` package's own, sending through the kernel's connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import comm
from comm.base_comm import BaseComm, CommManager

from cellyard_sandbox.python_kernel.connection import frame

if TYPE_CHECKING:
    from cellyard_sandbox.python_kernel.kernel import Kernel


class Comms:
    """What the `comm` package needs of a kernel."""

    def __init__(self, kernel: Kernel) -> None:
        self.manager = CommManager()

        class KernelComm(BaseComm):
            """A comm between this kernel and its front ends."""

            def publish_msg(
                self,
                msg_type: str,
                data: Any = None,
                metadata: Any = None,
                buffers: Any = None,
                **keys: Any,
            ) -> None:
                """Sends to the front ends. Called by BaseComm."""
                content = {"data": {} if data is None else data, "comm_id": self.comm_id, **keys}
                parts = [memoryview(buffer).cast("B") for buffer in buffers or ()]
                kernel.connection.send(frame(msg_type, kernel.parents.current().msg_id, content, metadata, parts))

        self._create = KernelComm

    def install(self) -> None:
        """Makes the package's functions ours; also again, after ipykernel was imported, which takes them over."""
        comm.create_comm = self._create
        comm.get_comm_manager = lambda: self.manager

    def take_over(self, module: Any) -> None:
        """Lets ipykernel's deprecated Comm, which would reach nobody, send as ours does."""
        module.BaseComm.publish_msg = self._create.publish_msg
