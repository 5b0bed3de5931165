"""llm-sandbox on the container engine, with the image that is its argument. Commands as in peer_jupyter.py."""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from llm_sandbox import SandboxSession

IMAGE = sys.argv[1]


def session() -> "SandboxSession":
    opened = SandboxSession(
        image=IMAGE,
        lang="python",
        skip_environment_setup=True,
        workdir="/tmp",
        runtime_configs={"network_mode": "none", "user": "root"},
    )
    opened.open()
    return opened


def run(opened: "SandboxSession") -> None:
    result = opened.run("print(1+1)")
    assert result.stdout == "2\n", result


def once(_: int = 0) -> None:
    opened = session()
    run(opened)
    opened.close()


def start() -> float:
    began = time.perf_counter()
    opened = session()
    run(opened)
    took = time.perf_counter() - began
    opened.close()
    return took


def many(count: int) -> float:
    with ThreadPoolExecutor(count) as threads:
        began = time.perf_counter()
        list(threads.map(once, range(count)))
        return time.perf_counter() - began


def main() -> None:
    print(json.dumps("ready"), flush=True)
    opened = None
    for line in sys.stdin:
        command, *arguments = line.split()
        if command == "hot":
            opened = opened or session()
            began = time.perf_counter()
            run(opened)
            answer = time.perf_counter() - began
        else:
            answer = start() if command == "start" else many(int(arguments[0]))
        print(json.dumps(answer), flush=True)
    if opened is not None:
        opened.close()


main()
