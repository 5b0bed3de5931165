"""What SDK, controller and agent must agree on: the protocol, its frames, and how outputs come from events."""

PROTOCOL = 1
"""Major version of the public services and of the agent link; another one is refused."""
