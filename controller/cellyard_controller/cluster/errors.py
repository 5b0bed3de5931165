"""What goes wrong between nodes."""

from __future__ import annotations


class NameTaken(Exception):
    """Another controller has this node's name, and its lease is in force."""

    def __init__(self, name: str, endpoint: str, left_s: float) -> None:
        self.name, self.endpoint, self.left_s = name, endpoint, left_s
        super().__init__(
            f"another controller is node {name!r}, at {endpoint or 'no endpoint'}: its lease is in force for another "
            f"{left_s:.1f} s, unless it renews it. Stop that one, or give this one a node.name of its own."
        )
