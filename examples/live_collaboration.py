"""Two people edit one notebook at the same time, and nobody's work is lost.

    python examples/live_collaboration.py

Each has a live replica of the document (`session.document()`, from the extra `cellyard[document]`): edits take effect
at once where they are made, and travel by themselves. What both do to the same source at the same time merges
character by character. Then one of them runs the cell, and the other one, who follows the notebook, sees the output
come. Ada and Grace stand for two programs, or two people at two front ends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import cellyard

DRAFT = "def area(width, height):\n    return width + height\n\nprint(area(3, 4))\n"


def until(document: cellyard.Document, done: Callable[[], bool]) -> None:
    """Waits until a change makes it so."""
    changed = threading.Event()
    forget = document.on_change(lambda change: changed.set())
    try:
        while not done():
            if not changed.wait(30):
                raise TimeoutError("the other's edit did not come")
            changed.clear()
    finally:
        forget()


def replace(document: cellyard.Document, cell_id: str, old: str, new: str) -> None:
    """Edits a part of a source, and leaves the rest to others."""
    document.splice_source(cell_id, document.source(cell_id).index(old), len(old), new)


def main() -> None:
    """Ada writes, Grace mends while Ada goes on, Ada runs, Grace watches."""
    with cellyard.Session() as ada, cellyard.Session(ada.notebook_id) as grace:
        with ada.document() as adas, grace.document() as graces:
            cell_id = adas.create_cell(DRAFT)
            until(graces, lambda: any(cell.id == cell_id for cell in graces.cells))
            print(f"Grace sees a cell of {len(graces.source(cell_id))} characters")

            # In the same source, and neither waits for the other's edit.
            replace(graces, cell_id, "width + height", "width * height")
            replace(adas, cell_id, "area(3, 4)", "area(30, 40)")

            merged = DRAFT.replace("width + height", "width * height").replace("area(3, 4)", "area(30, 40)")
            until(adas, lambda: adas.source(cell_id) == merged)
            until(graces, lambda: graces.source(cell_id) == merged)
            print("both have the same source, with both edits")

        watching = threading.Thread(target=follow, args=(grace,))
        watching.start()
        ada.execute_cell(cell_id)
        watching.join(60)


def follow(session: cellyard.Session) -> None:
    """Shows outputs of the notebook as they come, whoever runs the cell, until one has."""
    for event in session.watch():
        shown = event.cells[0].outputs if isinstance(event, cellyard.Snapshot) else []
        if isinstance(event, cellyard.ExecutionEvent) and isinstance(event.event, cellyard.OutputEvent):
            shown = [event.event.output]
        if shown:
            print(f"Grace sees the output: {shown[0].text}", end="")
            return


if __name__ == "__main__":
    main()
