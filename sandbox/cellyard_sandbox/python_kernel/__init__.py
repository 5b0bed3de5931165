"""The Python kernel: IPython's shell on an event loop, one socket away from the agent. Runs in the kernel.

What stands where a notebook's libraries look for it: a shell named ZMQInteractiveShell, with `kernel` (get_parent,
comm_manager, shell), a configuration with an IPKernelApp, and `comm`. What does not: ipykernel itself, its sockets and
sessions, and tornado's loop (code that imports tornado gets one on the kernel's asyncio loop).
"""
