"""Executions: which one runs next, what happens to it, and how it ends."""
