"""Runs one simulation, prints its figures, and writes them as JSON."""

from __future__ import annotations

import argparse
import json
import sys
import time

from tests.bench.report import RESULTS
from tests.simulation.load import Size
from tests.simulation.run import Simulation
from tests.simulation.seen import Seen


def show(seen: Seen) -> None:
    """A table, and a file."""
    figures = seen.table()
    for name, value in figures.items():
        print(f"{name:<42}{value:>14,.3f}" if isinstance(value, float) else f"{name:<42}{value:>14,}")
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"simulation-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.json"
    path.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"written to {path}")


def main() -> None:
    """The command."""
    usual = Size()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=usual.nodes)
    parser.add_argument("--notebooks", type=int, default=usual.notebooks)
    parser.add_argument("--seconds", type=float, default=usual.seconds)
    parser.add_argument("--report-every", type=float, default=usual.report_every)
    parser.add_argument("--seed", type=int, default=usual.seed)
    simulation = Simulation(Size(**vars(parser.parse_args())))
    simulation.tell = progress
    show(simulation.run())


def progress(simulation: Simulation) -> None:
    """How far it is, twenty times in a run."""
    part = simulation.now / simulation.size.seconds
    if round(part * 200) % 10 == 0 and part < 1:
        figures = simulation.result().table()
        print(f"{part:.0%}", {name: round(value, 4) for name, value in figures.items()}, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
