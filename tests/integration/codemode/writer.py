"""A program of its own that writes to a storage. Its arguments: kind, address, mark, count."""

from __future__ import annotations

import sys

from tests.integration.codemode.places import PLACES


def main(kind: str, address: str, mark: str, count: str) -> None:
    storage = PLACES[kind].open(address, None)
    for number in range(int(count)):
        name = f"{mark}_{number}"
        storage.get_artifact_store().save(f"each/{name}", {"by": mark}, f"by {mark}", {"number": number})
        storage.get_artifact_store().save("shared", mark * 1000, mark, {"by": mark})
        storage.get_workflow_library().create(name, f"def run():\n    return {number}\n", f"by {mark}")
        if PLACES[kind].keeps_all:
            storage.get_deps_store().put(f"{mark}-{number}")
    storage.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
