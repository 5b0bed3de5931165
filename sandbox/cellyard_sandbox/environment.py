"""Puts the packages of a prepared environment before those of the image, where one is mounted; and those that came
into the running sandbox behind them all.

A .pth file imports this at every interpreter's start, so that programs that a cell starts see what the cell sees: it
must be quick and never fail. The agent, a container's first process, goes without: what a tenant chose may hold other
versions of what it stands on. An environment of conda's has an interpreter of its own, and the image's sees nothing of
it (prefix).
"""

import os
import site
import sys

from cellyard_sandbox.prefix import PLACE, is_prefix

BROUGHT = "/home/sandbox/.cache/cellyard/packages"
"""What came into the running sandbox (packages.py)."""


def take_in(place: str, path: list[str]) -> None:
    """Adds a folder of modules, and what its own .pth files add, before the first site-packages folder."""
    known = len(path)
    site.addsitedir(place)
    added = path[known:]
    del path[known:]
    at = next((at for at, entry in enumerate(path) if entry.endswith("-packages")), len(path))
    path[at:at] = added


if os.getpid() != 1:
    if os.path.isdir(PLACE) and not is_prefix():
        take_in(PLACE, sys.path)
    if os.path.isdir(BROUGHT):
        site.addsitedir(BROUGHT)
