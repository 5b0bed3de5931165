"""A runtime for tests: its sandboxes are tasks of this process that speak the agent link like a good agent.

What a "kernel" there runs is a script, see script.py. Everything that goes wrong in life can be made to go
wrong.
"""

from cellyard_controller.runtimes.fake.clock import Clock, LoopClock, ManualClock
from cellyard_controller.runtimes.fake.runtime import FakeRuntime

__all__ = ["Clock", "FakeRuntime", "LoopClock", "ManualClock"]
