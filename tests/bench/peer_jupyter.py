"""jupyter_client alone, on the machine itself or within the sandbox image: no isolation, no service, no record.

Commands, each answered in JSON: `hot` (seconds of one `1+1` in a kernel that is there), `start` (seconds of a new
kernel to its first output), `many N` (seconds until N kernels that are started at once have run a cell and are gone),
`rate N` (runs a second of N kernels at once).
"""

import json
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

from jupyter_client.manager import KernelManager

ROUNDS = 150


class Kernel:
    """One kernel and its client."""

    def __init__(self) -> None:
        file = os.path.join(tempfile.mkdtemp(dir="/tmp"), "k.json")
        self._manager = KernelManager(transport="ipc", connection_file=file)
        self._manager.start_kernel()
        self._client = self._manager.blocking_client()
        self._client.start_channels()
        self._client.wait_for_ready()

    def run(self, source: str = "1+1") -> float:
        """One cell, from the request until reply and idle are there."""
        started = time.perf_counter()
        request = self._client.execute(source)
        while True:
            message = self._client.get_iopub_msg(timeout=60)
            mine = message["parent_header"].get("msg_id") == request
            if mine and message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                break
        self._client.get_shell_msg(timeout=60)
        return time.perf_counter() - started

    def close(self) -> None:
        """Ends it."""
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)


def once(_: int = 0) -> None:
    kernel = Kernel()
    kernel.run("print(1)")
    kernel.close()


def start() -> float:
    began = time.perf_counter()
    kernel = Kernel()
    kernel.run("print(1)")
    took = time.perf_counter() - began
    kernel.close()
    return took


def many(count: int) -> float:
    with ThreadPoolExecutor(count) as threads:
        began = time.perf_counter()
        list(threads.map(once, range(count)))
        return time.perf_counter() - began


def rate(count: int) -> float:
    with ThreadPoolExecutor(count) as threads:
        kernels = list(threads.map(lambda _: Kernel(), range(count)))
        list(threads.map(Kernel.run, kernels))
        began = time.perf_counter()
        list(threads.map(lambda kernel: [kernel.run() for _ in range(ROUNDS)], kernels))
        took = time.perf_counter() - began
        list(threads.map(Kernel.close, kernels))
        return count * ROUNDS / took


def main() -> None:
    kernel = Kernel()
    for _ in range(20):
        kernel.run()
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        command, *arguments = line.split()
        if command == "hot":
            answer = kernel.run()
        elif command == "start":
            answer = start()
        else:
            answer = {"many": many, "rate": rate}[command](int(arguments[0]))
        print(json.dumps(answer), flush=True)
    kernel.close()


main()
