"""Says what Python packages a program here finds: a line of JSON for each, in the order in which they are found.

A program of its own, because what is read may be the code's own work: the agent must not wait for it, nor break.
"""

import json
import sys
from importlib import metadata


def main() -> None:
    """Tells of all that can be read."""
    for found in metadata.distributions():
        try:
            about = found.metadata
            told = {
                "name": about["Name"],
                "version": about["Version"],
                "requires": about.get_all("Requires-Dist") or [],
                "extras": about.get_all("Provides-Extra") or [],
            }
        except Exception:  # whatever reading a damaged package ends in, the others are there
            continue
        sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
