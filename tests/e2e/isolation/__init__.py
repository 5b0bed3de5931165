"""Attacks from real cells. Each has a control: the same snippet succeeds in a careless container."""
