"""A client under load, as a process that can be killed: sessions of one tenant, one notebook after the other each.

Says what it has met as JSON, a line for each cell: `{"ended": ...}` or `{"error": NAME, "typed": BOOL}`.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import uuid

import cellyard

CELLS = (
    "sum(range(100_000))",
    "print('x' * 100_000)",
    "import time\ntime.sleep(0.3)",
    "1 / 0",
)
HOSTILE = (
    "taken = [bytearray(64 * 1048576) for _ in range(32)]",
    "import os\nos._exit(3)",
    "import os\nos.kill(os.getppid(), 9)",
    "line = 'x' * 9999\nfor _ in range(5_000): print(line)",
    "import os\nchildren = [os.fork() or os._exit(0) for _ in range(300)]",
)


def visit(endpoint: str, token: str, chance: random.Random, say: threading.Lock) -> None:
    """One notebook: a few cells, and out."""
    with cellyard.Session(f"load-{uuid.uuid4()}", endpoint=endpoint, token=token) as session:
        for _ in range(chance.randint(1, 3)):
            hostile = chance.random() < 0.1
            result = session.run(chance.choice(HOSTILE if hostile else CELLS), timeout_secs=30)
            with say:
                print(json.dumps({"ended": str(result.end.value if result.end else None)}), flush=True)


def keep_on(endpoint: str, token: str, seed: int, say: threading.Lock) -> None:
    """One notebook after the other, until the process ends."""
    chance = random.Random(seed)
    while True:
        try:
            visit(endpoint, token, chance, say)
        except Exception as error:  # whatever it is is what this is about
            typed = isinstance(error, cellyard.CellyardError)
            with say:
                print(json.dumps({"error": type(error).__name__, "typed": typed, "says": str(error)[:300]}), flush=True)


def main() -> None:
    """Arguments: endpoint, token, number of sessions, seed."""
    endpoint, token, sessions, seed = sys.argv[1:]
    say = threading.Lock()
    for number in range(int(sessions)):
        arguments = (endpoint, token, int(seed) * 1_000 + number, say)
        threading.Thread(target=keep_on, args=arguments, daemon=True).start()
    sys.stdin.read()  # ends with whoever started it


if __name__ == "__main__":
    main()
