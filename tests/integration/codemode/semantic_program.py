"""What a program sees of search by meaning, as JSON. Runs in the environment that `make semantic` makes."""

from __future__ import annotations

import json
import socket
import sys
import threading
from pathlib import Path
from typing import Any

LIBRARY = [
    "fetch_json\nGet a page over HTTP and parse what came as JSON\nurl",
    "bake_cake\nMix flour, sugar and eggs, and put it into the oven\nsize",
    "send_mail\nDeliver a letter to somebody through SMTP\nto subject body",
    "mean_of\nThe average of a column in a table of numbers\npath column",
]
QUESTIONS = {
    "download something from the web": 0,
    "make a dessert": 1,
    "write an e-mail to a colleague": 2,
    "statistics of a CSV file": 3,
}


def refuse(*_: Any, **__: Any) -> Any:
    raise AssertionError("search by meaning reached for the network")


def main(cache: str) -> dict[str, Any]:
    """`cache`: an empty folder."""
    socket.socket.connect = refuse  # type: ignore[method-assign]
    socket.getaddrinfo = refuse
    from cellyard.codemode import models
    from cellyard.codemode.search import SemanticSearch, default_search

    early = "torch" in sys.modules
    search, start = default_search(), threading.Barrier(3)
    assert isinstance(search, SemanticSearch)
    at_once: list[list[int]] = []

    def ask() -> None:
        start.wait()
        at_once.append(search.rank("make a dessert", LIBRARY, 1))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = SemanticSearch(cache=cache)
    return {
        "imported_early": early,
        "at_once": at_once,
        "best": {question: search.rank(question, LIBRARY, 1) for question in QUESTIONS},
        "all": search.rank("make a dessert", LIBRARY, 10),
        "twice": [kept.rank("make a dessert", LIBRARY, 10) for _ in range(2)],
        "files": len(list(Path(cache).iterdir())),
        "one_model": models.find(None) is models.find(models.PACKAGE) is models.find(models._folder(models.PACKAGE)),
        "odd": search.rank("\ud800 \0 dessert", ["\udfff", "", "\0", LIBRARY[1], "cake " * 20_000], 10),
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
