"""The locks of a PostgreSQL database that all of its controllers know: the first number is always the same one."""

from __future__ import annotations

OURS = 0x43594152
PREPARING = 1
"""Held by whoever makes or migrates the tables."""
IN_USE = 2
"""Shared by the stores that are open; held alone by who must be alone with the database."""
SWEEPING = 3
"""See `sweeping`."""
