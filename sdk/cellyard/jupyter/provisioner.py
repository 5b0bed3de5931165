"""The kernel provisioner: what jupyter_client asks to start, interrupt and end a kernel."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning.provisioner_base import KernelProvisionerBase
from traitlets import Any as AnyTrait
from traitlets import Float, List, Unicode

from cellyard.jupyter.background import BACKGROUND
from cellyard.jupyter.bridge import Bridge
from cellyard.jupyter.channels import Place
from cellyard.jupyter.settings import Settings

CHANNELS = ("shell", "iopub", "stdin", "control", "hb")
STARTS_WITHIN_S = 60.0
"""What a restarter has to expect; a start that must build an environment takes longer."""


class CellyardProvisioner(KernelProvisionerBase):  # type: ignore[misc]
    """Runs kernels in Cellyard's sandboxes. Its traits are a kernelspec's `config`, see Settings."""

    kernel = Unicode("python")
    endpoint = Unicode("")
    token_file = Unicode("")
    template = Unicode("")
    network = Unicode("")
    env_source = Unicode("")
    require: Any = List(Unicode())
    idle_timeout = Float(0.0)
    notebook = Unicode("")
    files = Unicode("none")
    _bridge: Any = AnyTrait(None, allow_none=True)

    @property
    def has_process(self) -> bool:
        """Whether there is a kernel, ended or not."""
        return self._bridge is not None

    async def poll(self) -> int | None:
        """None while the kernel lives, else its exit code."""
        bridge: Bridge | None = self._bridge
        return 0 if bridge is None else bridge.exit_code

    async def wait(self) -> int | None:
        """Waits for the kernel's end; its exit code."""
        bridge: Bridge | None = self._bridge
        if bridge is None:
            return 0
        await BACKGROUND.run(bridge.wait())
        return bridge.exit_code

    async def send_signal(self, signum: int) -> None:
        """SIGINT interrupts, SIGTERM and SIGKILL end; others have nobody to go to."""
        if signum == signal.SIGINT:
            if self._bridge is not None:
                await BACKGROUND.run(self._bridge.interrupt())
        elif signum in (signal.SIGTERM, signal.SIGKILL):
            await self._end(-signum)

    async def kill(self, restart: bool = False) -> None:
        """Ends the kernel."""
        await self._end(-signal.SIGKILL)

    async def terminate(self, restart: bool = False) -> None:
        """Ends the kernel."""
        await self._end(-signal.SIGTERM)

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Binds the kernel's sockets, so that the connection file has ports that nobody can take before it."""
        manager = self.parent
        if manager is None:
            raise RuntimeError("a Cellyard kernel is started by a kernel manager")
        if self._bridge is None:
            self._bridge = Bridge(self._settings(), self.kernel_id)
        wanted = {name: int(getattr(manager, f"{name}_port")) for name in CHANNELS}
        scheme = manager.session.signature_scheme
        place = Place(manager.transport, manager.ip, wanted, manager.session.key, scheme)
        try:
            bound = await BACKGROUND.run(self._bridge.bind(place))
        except BaseException:
            await self.cleanup()
            raise
        for name, port in bound.ports.items():
            setattr(manager, f"{name}_port", port)
        env = kwargs.get("env") or {}
        manager.write_connection_file(jupyter_session=env.get("JPY_SESSION_NAME", ""))
        self.connection_info = manager.get_connection_info()
        kwargs.pop("extra_arguments", None)
        return await super().pre_launch(cmd=[], **kwargs)  # type: ignore[no-any-return]

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Starts the kernel, or a fresh one in the same sandbox where there is one.

        What this process has in its environment stays here: variables of a kernel are its template's and a user's own.
        Raises CellyardError with a sentence where no kernel can be had.
        """
        bridge: Bridge = self._bridge
        try:
            await BACKGROUND.run(bridge.launch(kwargs.get("cwd") or os.getcwd()))
        except BaseException:
            await self.cleanup()
            raise
        BACKGROUND.at_exit(bridge.close)
        return self.connection_info

    async def cleanup(self, restart: bool = False) -> None:
        """The kernel has ended for good, unless another one follows in its sandbox."""
        bridge: Bridge | None = self._bridge
        if bridge is None or restart:
            return
        self._bridge = None
        BACKGROUND.forget(bridge.close)
        await asyncio.shield(BACKGROUND.run(bridge.close()))

    def get_shutdown_wait_time(self, recommended: float = 5.0) -> float:
        """Seconds for a shutdown that was asked for: it is answered at once."""
        return recommended

    def get_stable_start_time(self, recommended: float = 10.0) -> float:
        """Seconds that a start may take."""
        return max(recommended, STARTS_WITHIN_S)

    async def _end(self, exit_code: int) -> None:
        bridge: Bridge | None = self._bridge
        if bridge is not None:

            async def end() -> None:
                bridge.end(exit_code)

            await BACKGROUND.run(end())

    def _settings(self) -> Settings:
        config = {
            name: getattr(self, name) for name in self.trait_names(config=None) if name in Settings.__dataclass_fields__
        }
        return Settings.read({**config, "require": tuple(config["require"])})
