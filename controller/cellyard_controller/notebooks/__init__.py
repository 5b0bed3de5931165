"""Notebooks: the document that people write, and the room that owns a notebook while it is in memory."""
