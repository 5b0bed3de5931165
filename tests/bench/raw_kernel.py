"""Runs in the sandbox image, without us: jupyter_client drives an ipykernel, one `1+1` for each line of stdin.

Prints the seconds that each took, a line each; the first line tells that the kernel is ready.
"""

import sys
import time

from jupyter_client.manager import KernelManager

manager = KernelManager(transport="ipc", connection_file="/tmp/kernel.json")
manager.start_kernel()
client = manager.blocking_client()
client.start_channels()
client.wait_for_ready()


def run() -> float:
    """One cell, from the request until reply and idle are there."""
    started = time.perf_counter()
    request = client.execute("1+1")
    while True:
        message = client.get_iopub_msg(timeout=30)
        mine = message["parent_header"].get("msg_id") == request
        if mine and message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
            break
    client.get_shell_msg(timeout=30)
    return time.perf_counter() - started


for _ in range(20):
    run()
print("ready", flush=True)
for _ in sys.stdin:
    print(run(), flush=True)
manager.shutdown_kernel(now=True)
