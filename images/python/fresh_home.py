"""Gives a fresh home the caches that the image has ready, so that the first plot need not look for fonts.

A home is an empty tmpfs, and matplotlib keeps its cache only where it may write. So the first interpreter
that finds no cache copies the baked one, some 20 KiB. A .pth file imports this at every start: it must be
quick and never fail.
"""

import os


def _fill(source: str, home: str) -> None:
    for folder, _, names in os.walk(source):
        target = os.path.join(home, os.path.relpath(folder, source))
        os.makedirs(target, exist_ok=True)
        for name in names:
            # Written aside and renamed: another interpreter may be starting at the same time.
            draft = os.path.join(target, f".{name}.{os.getpid()}")
            with open(os.path.join(folder, name), "rb") as old, open(draft, "wb") as new:
                new.write(old.read())
            os.replace(draft, os.path.join(target, name))


try:
    if not os.path.lexists(os.path.expanduser("~/.cache/matplotlib")):
        _fill("/opt/home", os.path.expanduser("~"))
except OSError:
    pass  # no home, or not writable: only the cache is missed, and it is made again
