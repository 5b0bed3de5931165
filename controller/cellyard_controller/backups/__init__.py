"""Copies of a data folder: taken while its controller runs, and put back into an empty one."""
