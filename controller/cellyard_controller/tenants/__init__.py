"""Tenants: who may use the controller, proven by a token that is stored hashed."""
