"""What the kernel says of itself, of code that is not run yet, and of what ran (Jupyter messaging)."""

from __future__ import annotations

import fnmatch
import platform
from typing import Any

import IPython


def info() -> dict[str, Any]:
    """The content of a kernel_info_reply, as ipykernel's."""
    version = platform.python_version_tuple()
    return {
        "status": "ok",
        "protocol_version": "5.4",
        "implementation": "ipython",
        "implementation_version": IPython.__version__,
        "language_info": {
            "name": "python",
            "version": platform.python_version(),
            "mimetype": "text/x-python",
            "codemirror_mode": {"name": "ipython", "version": int(version[0])},
            "pygments_lexer": f"ipython{version[0]}",
            "nbconvert_exporter": "python",
            "file_extension": ".py",
        },
        "banner": f"Python {platform.python_version()} in a Cellyard sandbox, IPython {IPython.__version__}",
        "help_links": [],
        "supported_features": [],
    }


def is_complete(shell: Any, code: str) -> dict[str, Any]:
    """Whether code is ready to run."""
    status, indent = shell.input_transformer_manager.check_complete(code)
    return {"status": status, "indent": " " * (indent or 0)} if status == "incomplete" else {"status": status}


def history(
    shell: Any,
    hist_access_type: str = "range",
    session: int = 0,
    start: int = 0,
    stop: int | None = None,
    pattern: str | None = "*",
    unique: bool = False,
    n: int | None = 0,
    raw: bool = True,
    output: bool = False,
) -> dict[str, Any]:
    """What ran: this kernel knows of its own life alone. A range that starts before its first cell starts with that."""
    kept = len(shell.history_manager.input_hist_raw)  # with an entry for the cell 0, which is none
    if session != 0:
        return {"status": "ok", "history": []}
    first, last = (_place(start, kept), stop) if hist_access_type == "range" else (1, None)
    entries = list(shell.history_manager.get_range(0, first, last, raw=raw, output=output))
    if hist_access_type == "search":
        entries = [entry for entry in entries if fnmatch.fnmatchcase(_source(entry), pattern or "*")]
        if unique:
            latest = {_source(entry): entry for entry in entries}
            entries = sorted(latest.values(), key=lambda entry: int(entry[1]))
        entries = entries[-n:] if n else entries
    return {"status": "ok", "history": entries}


def _place(start: int, kept: int) -> int:
    return max(start + kept, 1) if start < 0 else start


def _source(entry: Any) -> str:
    return str(entry[2][0] if isinstance(entry[2], tuple) else entry[2])
