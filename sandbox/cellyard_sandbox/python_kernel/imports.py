"""What is to be done once a module was imported that the kernel itself does not need."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class AfterImport(MetaPathFinder):
    """Finds nothing itself: watches for some modules that others find."""

    def __init__(self, then: dict[str, Callable[[ModuleType], None]]) -> None:
        self._then = then

    def install(self) -> None:
        """From now on."""
        sys.meta_path.insert(0, self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See MetaPathFinder."""
        then = self._then.get(fullname)
        if then is None:
            return None
        for finder in sys.meta_path:
            spec = finder.find_spec(fullname, path, target) if finder is not self else None
            if spec is not None and spec.loader is not None:
                _call_after(spec.loader, then)
                return spec
        return None


def _call_after(loader: Any, then: Callable[[ModuleType], None]) -> None:
    execute = loader.exec_module

    def execute_and_call(module: ModuleType) -> None:
        execute(module)
        then(module)

    loader.exec_module = execute_and_call


def after_pdb(pdb: Any) -> None:
    """The debugger is that of IPython: see after_debugger."""
    import IPython.core.debugger  # noqa: F401


def after_debugger(debugger: Any) -> None:
    """An interrupt ends the debugger, which else would ask what to do, and never end."""
    pdb: Any = sys.modules["pdb"]
    pdb.Pdb = debugger.Pdb = debugger.InterruptiblePdb
    pdb.set_trace = debugger.set_trace
