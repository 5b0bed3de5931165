"""What is wrong with what an operator gives."""

from __future__ import annotations


class BadInput(ValueError):
    """A file or an option that no image can be made from. The message names the place, and says what to do."""
