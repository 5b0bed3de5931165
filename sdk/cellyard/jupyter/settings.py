"""What a kernelspec says of the kernels that it starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from cellyard.errors import InvalidRequest

KERNELS = {"python": "python", "deno": "typescript"}
"""Kernel types, and the language of each as front ends know it."""
FILES = ("none", "beside")


@dataclass(frozen=True, slots=True)
class Settings:
    """The `config` of a kernelspec's provisioner. Empty means what a session without it would do."""

    kernel: str = "python"
    endpoint: str = ""
    token_file: str = ""
    """A file with the tenant's token in it; without one CELLYARD_TOKEN counts, when the kernel is started."""
    template: str = ""
    network: str = ""
    env_source: str = ""
    require: tuple[str, ...] = ()
    idle_timeout: float = 0.0
    """Seconds."""
    notebook: str = ""
    """A notebook's id: its kernel is used, and it is kept. Without one each kernel has a notebook of its own, which is
    deleted with it."""
    files: str = "none"
    """`beside`: the plain files of the folder that the kernel is started in go along."""

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> Settings:
        """From a kernelspec. Raises InvalidRequest."""
        known = {each.name for each in fields(cls)}
        unknown = sorted(set(config) - known)
        if unknown:
            raise InvalidRequest(f"the kernelspec sets what there is not: {', '.join(unknown)}")
        given: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in config.items()
        }
        for each in fields(cls):
            value = given.get(each.name, each.default)
            kinds: Any = (int, float) if each.name == "idle_timeout" else type(each.default)
            if not isinstance(value, kinds):
                raise InvalidRequest(f"the kernelspec's {each.name} cannot be {value!r}")
        settings = cls(**given)
        if settings.kernel not in KERNELS:
            raise InvalidRequest(f"the kernelspec's kernel is one of {', '.join(KERNELS)}, not {settings.kernel!r}")
        if settings.files not in FILES:
            raise InvalidRequest(f"the kernelspec's files is one of {', '.join(FILES)}, not {settings.files!r}")
        return settings

    def config(self) -> dict[str, Any]:
        """As a kernelspec has it: what is not as usual."""
        told = {
            each.name: getattr(self, each.name) for each in fields(self) if getattr(self, each.name) != each.default
        }
        if "require" in told:
            told["require"] = list(self.require)
        return {"kernel": self.kernel, **told}

    def token(self) -> str | None:
        """The token; None for the environment's. Raises InvalidRequest where the file cannot be read."""
        if not self.token_file:
            return None
        try:
            return Path(self.token_file).expanduser().read_text("utf-8").strip()
        except (OSError, ValueError) as failed:
            raise InvalidRequest(f"the token file {self.token_file} cannot be read: {failed}") from None
