"""Sessions side by side: a piece of work each, every one in a container of its own.

    python examples/parallel_sessions.py [SESSIONS]

Each session throws darts for an estimate of pi. They share nothing: what one leaves in its kernel, in its home and in
/tmp, no other sees. How many containers there are at a time is the controller's business, not the program's: who
finds no room waits in a fair queue, and `on_progress` tells of it.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import cellyard

DARTS = 200_000
WORK = """
import random, pathlib
generator = random.Random({seed})
inside = sum(generator.random() ** 2 + generator.random() ** 2 < 1 for _ in range({darts}))
left_by_others = [str(path) for path in (pathlib.Path("mine"), pathlib.Path("/tmp/mine")) if path.exists()]
for path in ("mine", "/tmp/mine"):
    pathlib.Path(path).write_text("{seed}")
inside, left_by_others
"""


async def piece(seed: int) -> tuple[int, list[str], str]:
    """One piece of the work: its hits, what it found of others, and the sandbox that it ran in."""
    async with cellyard.AsyncSession(require={"container_isolation"}, on_progress=print_waiting) as session:
        result = await session.run(WORK.format(seed=seed, darts=DARTS), timeout_secs=120)
        if result.error is not None:
            raise RuntimeError(f"piece {seed} failed: {result.error.evalue}")
        inside, found = result.value
        return inside, found, await sandbox_of(session.notebook_id)


async def sandbox_of(notebook_id: str) -> str:
    """The sandbox that a notebook has."""
    async with cellyard.AsyncClient() as client:
        return next(each.sandbox_id for each in await client.list_sandboxes() if each.notebook_id == notebook_id)


def print_waiting(progress: Any) -> None:
    """Tells of waiting, and of nothing else."""
    if progress.stage == "waiting":
        print(f"    ({progress.message})")


async def main(sessions: int) -> None:
    """Runs all pieces at once."""
    pieces = await asyncio.gather(*(piece(seed) for seed in range(sessions)))
    print(f"pi is about {4 * sum(inside for inside, _, _ in pieces) / (DARTS * sessions):.3f}")
    print(f"{sessions} sessions ran in {len({sandbox for _, _, sandbox in pieces})} sandboxes")
    print(f"left by others: {[found for _, found, _ in pieces if found]}")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 4))
