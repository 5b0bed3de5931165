"""Who this client says it is."""

from __future__ import annotations

VERSION = "0.1.0.dev0"
CLIENT = "cellyard-python"
