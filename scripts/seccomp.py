"""Makes images/seccomp/profile.json, in the form that container engines take, of images/seccomp/table.toml.

`--check` makes nothing and fails where the file is not what the table says.
"""

from __future__ import annotations

import errno
import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "images" / "seccomp"
TABLE, PROFILE = FOLDER / "table.toml", FOLDER / "profile.json"
_MASKED = re.compile(r"&(0x[0-9A-Fa-f]+) ==")


def profile(table: dict[str, Any]) -> dict[str, Any]:
    """The profile that a table says. Raises ValueError where a call stands twice, or a comparison is unknown."""
    allowed = sorted(name for group in table["allowed"] for name in group["names"])
    conditional = [rule for each in table["conditional"] for rule in _conditional(each)]
    absent = sorted(name for group in table["refused"] if group.get("errno") == "ENOSYS" for name in group["names"])
    _check_once(table)
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": errno.EPERM,
        "archMap": [{"architecture": name, "subArchitectures": []} for name in table["architectures"]],
        "syscalls": [
            {"names": allowed, "action": "SCMP_ACT_ALLOW", "args": []},
            *conditional,
            {"names": absent, "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS, "args": []},
        ],
    }


def _conditional(each: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "names": [each["name"]],
            "action": "SCMP_ACT_ALLOW",
            "args": [_argument(*condition) for condition in alternative],
        }
        for alternative in each["when"]
    ]


def _argument(index: int, comparison: str, value: int) -> dict[str, Any]:
    if comparison == "==":
        return {"index": index, "value": value, "op": "SCMP_CMP_EQ"}
    masked = _MASKED.fullmatch(comparison)
    if masked is None:
        raise ValueError(f"an unknown comparison: {comparison}")
    return {"index": index, "value": int(masked[1], 16), "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}


def _check_once(table: dict[str, Any]) -> None:
    groups = [group["names"] for group in (*table["allowed"], *table["refused"])]
    names = [name for group in groups for name in group] + [each["name"] for each in table["conditional"]]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"more than one word on {', '.join(twice)}")


def main() -> int:
    """Writes the profile, or with --check compares it."""
    made = json.dumps(profile(tomllib.loads(TABLE.read_text())), indent=1) + "\n"
    if "--check" not in sys.argv[1:]:
        PROFILE.write_text(made)
        return 0
    if PROFILE.exists() and PROFILE.read_text() == made:
        return 0
    print(f"{PROFILE} is not what {TABLE.name} says: run `make seccomp`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
