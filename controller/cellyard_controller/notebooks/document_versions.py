"""Versions of the document's schema, and how an old document becomes a new one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from automerge import core

from cellyard_proto.document import schema

VERSION = schema.VERSION

Step = Callable[[core.Transaction], None]
"""Brings a document from one version to the next, in one change; it need not set the version itself."""

STEPS: Mapping[int, Step] = {}
"""By the version that they start from: every one from the first released version on."""


class TooNew(Exception):
    """The document was written by a later release, which alone can read it."""


def migrate(document: core.Document, steps: Mapping[int, Step] = STEPS, to: int = VERSION) -> None:
    """Brings a document up to `to`. Raises TooNew; KeyError where there is no step for its version."""
    found = document.get(core.ROOT, "schema")
    version = 0 if found is None else int(cast("tuple[Any, int]", found[0])[1])
    if version > to:
        raise TooNew(f"the document has schema {version}; this release reads up to {to}")
    while version < to:
        step = steps[version]
        version += 1
        with document.transaction() as change:
            step(change)
            change.put(core.ROOT, "schema", core.ScalarType.Int, version)
