"""What runs code mode's code."""
