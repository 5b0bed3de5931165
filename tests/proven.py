"""Waits until a controller has shown what its sandboxes are: `python tests/proven.py [ENDPOINT [TEMPLATE]]`.

On a machine that is too busy for it a probe does not answer in time, and is made again half a minute later. Who
requires isolation is refused until then, as it should be; tests that are about something else wait.
"""

from __future__ import annotations

import sys
import time

import cellyard

WITHIN = 180.0
NEEDED = {"container_isolation", "network_isolation"}


def wait_until_proven(endpoint: str | None = None, template: str | None = None) -> None:
    """Asks, which makes the controller look again, until the answer is yes. No event tells of it."""
    ends = time.monotonic() + WITHIN
    with cellyard.Client(endpoint) as client:
        while True:
            facts = client.capabilities(template=template)
            missing = [f"{fact.name}: {fact.evidence}" for fact in facts if fact.name in NEEDED and not fact.granted]
            if not missing:
                return
            if time.monotonic() > ends:
                raise AssertionError(f"not proven within {WITHIN:.0f} s: {missing}")
            time.sleep(2)


if __name__ == "__main__":
    wait_until_proven(*sys.argv[1:])
