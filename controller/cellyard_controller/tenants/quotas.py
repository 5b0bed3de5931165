"""What a tenant may have: quotas, as operators write them and as the rest of the controller reads them.

Pure. Which quotas were set for which tenant stands in the store; `Quotas` has it in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeAlias

from cellyard_controller.errors import InvalidRequest
from cellyard_controller.ids import LOCAL, TenantName
from cellyard_proto import amounts

UNLIMITED = "unlimited"
DEFAULT = "default"
"""Words for a value: without a limit, and whatever the configuration says."""

Limit: TypeAlias = int | float | None
Overrides: TypeAlias = Mapping[str, Limit]
"""The quotas that were set for one tenant; None is unlimited, what is missing is the default."""

_SIZES = ("memory", "storage")
_FRACTIONS = ("cpu", "rate")
_LARGEST = 2**63 - 1  # of the store and of the protocol


@dataclass(frozen=True, slots=True)
class Quota:
    """What one tenant may have at a time. None is unlimited."""

    sandboxes: int | None = None
    """Sandboxes that run or start."""
    memory: int | None = None
    """Bytes that its sandboxes may use, all together."""
    cpu: float | None = None
    """Processors of its sandboxes, all together."""
    queued: int | None = None
    """Executions that wait, in all of its notebooks."""
    notebooks: int | None = None
    """Notebooks that are kept."""
    storage: int | None = None
    """Bytes that are kept: documents, sources, outputs, workflows, artifacts."""
    rate: float | None = None
    """Requests a second."""


KEYS = tuple(field.name for field in fields(Quota))


class Quotas:
    """The quotas of all tenants, in memory. Refreshed as a whole whenever one is changed."""

    def __init__(self, default: Quota | None = None) -> None:
        """`default`: what a tenant may have for whom nothing else was set."""
        self._default = default or Quota()
        self._tenants: dict[TenantName, Quota] = {}
        self.on_change: Callable[[], None] = lambda: None
        """Called when they were refreshed."""

    def of(self, tenant: TenantName) -> Quota:
        """What a tenant may have. The operator's own, `local`, has no quotas."""
        if tenant == LOCAL:
            return Quota()
        return self._tenants.get(tenant, self._default)

    def names(self) -> list[TenantName]:
        """Tenants that there are, beside `local`."""
        return sorted(self._tenants)

    def refresh(self, stored: Mapping[TenantName, Overrides]) -> None:
        """Takes over what was set, for all tenants."""
        self._tenants = {tenant: self.merged(overrides) for tenant, overrides in stored.items()}
        self.on_change()

    def merged(self, overrides: Overrides) -> Quota:
        """What holds for a tenant for whom this was set."""
        return Quota(**{**asdict(self._default), **overrides})


def parse(key: str, value: object) -> Limit:
    """One quota from how it is written: "4", "4GiB", "unlimited", or a number. Raises ValueError, naming the key."""
    if key not in KEYS:
        raise ValueError(f"unknown quota {key[:40]!r}: one of {', '.join(KEYS)}")
    if value is None or value == UNLIMITED:
        return None
    number = _number(key, value)
    if not 0 <= number <= _LARGEST:
        raise ValueError(f"the quota {key} is a number from 0 to 2**63-1, or {UNLIMITED!r}, not {_shown(value)}")
    if key == "rate" and number == 0:
        raise ValueError("the quota rate is a number of requests a second above 0; revoke a tenant's tokens instead")
    return number


def changed(overrides: Overrides, changes: Mapping[str, str]) -> dict[str, Limit]:
    """What is set for a tenant after changes as operators write them. Raises InvalidRequest, naming the key."""
    result = dict(overrides)
    for key, text in changes.items():
        try:
            limit = parse(key, None if text == DEFAULT else text)
        except ValueError as bad:
            raise InvalidRequest(str(bad), quota=key[:40]) from None
        result[key] = limit
        if text == DEFAULT:
            del result[key]
    return result


def from_pairs(pairs: list[str]) -> dict[str, str]:
    """The changes in `key=value` words of a command. Raises InvalidRequest."""
    changes: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not value:
            raise InvalidRequest(f"{pair[:80]!r} is no quota: KEY=VALUE, the key one of {', '.join(KEYS)}")
        if key in changes:
            raise InvalidRequest(f"the quota {key[:40]!r} is given twice", quota=key[:40])
        changes[key] = value
    return changes


def words(quota: Quota) -> dict[str, str]:
    """Quotas for people, those without a limit left out."""
    limits: dict[str, Any] = {key: limit for key, limit in asdict(quota).items() if limit is not None}
    return {
        key: amounts.size(limit) if key in _SIZES else f"{limit:g}" if key in _FRACTIONS else str(limit)
        for key, limit in limits.items()
    }


def _number(key: str, value: object) -> int | float:
    if isinstance(value, str):
        if value.strip().startswith("-"):
            raise ValueError(f"the quota {key} is not negative: {_shown(value)}")
        try:
            if key in _SIZES:
                return amounts.parse_size(value)
            return float(value) if key in _FRACTIONS else int(value)
        except ValueError as bad:
            why = str(bad) if key in _SIZES else f"{_shown(value)} is no {'' if key in _FRACTIONS else 'whole '}number"
            raise ValueError(f"the quota {key}: {why}") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"the quota {key} is a number, not {_shown(value)}")
    if isinstance(value, float) and key not in _FRACTIONS and not value.is_integer():
        raise ValueError(f"the quota {key} is a whole number, not {_shown(value)}")
    return value if key in _FRACTIONS else int(value)


def _shown(value: object) -> str:
    return repr(value)[:60]
