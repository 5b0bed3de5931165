"""Marks that the generator of the sync flavour (scripts/sync.py) reads."""

from __future__ import annotations

from typing import TypeVar

_Function = TypeVar("_Function")


def property_when_sync(function: _Function) -> _Function:
    """A coroutine method here, a property in the sync flavour."""
    return function
