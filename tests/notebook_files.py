"""Any valid notebook of nbformat 4, for hypothesis; and when two files say the same."""

from __future__ import annotations

import json
from typing import Any

import nbformat
from hypothesis import strategies as st

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
LINE = TEXT.map(lambda text: f"{text}\n")
COUNT = st.none() | st.integers(0, 3) | st.integers(0, 2**31 - 1)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
OBJECT = st.dictionaries(TEXT, JSON, max_size=3)
MULTILINE = TEXT | st.lists(LINE | TEXT, max_size=3)
TAGS = st.lists(st.text("abcäß -", min_size=1, max_size=5), unique=True, max_size=3)

_TEXT_TYPES = ["text/plain", "text/html", "image/png", "image/svg+xml", "application/javascript", "text/latex"]
_JSON_TYPES = ["application/json", "application/geo+json", "application/vnd.jupyter.widget-view+json"]
BUNDLE = st.builds(
    lambda text, data, other: {**other, **text, **data},
    st.dictionaries(st.sampled_from(_TEXT_TYPES), MULTILINE, max_size=3),
    st.dictionaries(st.sampled_from(_JSON_TYPES), JSON | st.lists(TEXT), max_size=2),
    st.dictionaries(TEXT.map(lambda name: f"x-{name}"), MULTILINE, max_size=1),
)
STREAM = st.fixed_dictionaries(
    {
        "output_type": st.just("stream"),
        "name": st.sampled_from(["stdout", "stderr"]) | TEXT,
        "text": MULTILINE | st.sampled_from(["a\rb", "ab\b\b", ["\r\n", "\x1b[31mred"]]),
    }
)
DISPLAY = st.fixed_dictionaries({"output_type": st.just("display_data"), "data": BUNDLE, "metadata": OBJECT})
RESULT = st.fixed_dictionaries(
    {"output_type": st.just("execute_result"), "data": BUNDLE, "metadata": OBJECT, "execution_count": COUNT}
)
ERROR = st.fixed_dictionaries(
    {"output_type": st.just("error"), "ename": TEXT, "evalue": TEXT, "traceback": st.lists(TEXT, max_size=3)}
)
HIDDEN = st.fixed_dictionaries({}, optional={"source_hidden": st.booleans(), "outputs_hidden": st.booleans()})


def _with_known(others: st.SearchStrategy[dict[str, Any]], **known: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Metadata of any kind, where the schema's own keys have values that it allows."""
    chosen = st.fixed_dictionaries({}, optional=known)
    return st.builds(lambda any_, own: {**{k: v for k, v in any_.items() if k not in known}, **own}, others, chosen)


CELL_METADATA = _with_known(
    OBJECT,
    name=st.text("ab ä", min_size=1),
    tags=TAGS,
    jupyter=HIDDEN,
    execution=st.dictionaries(TEXT, TEXT, max_size=2),
    collapsed=st.booleans(),
    scrolled=st.sampled_from([True, False, "auto"]),
    format=TEXT,
    trusted=st.booleans(),
)
NOTEBOOK_METADATA = _with_known(
    OBJECT,
    kernelspec=st.fixed_dictionaries({"name": TEXT, "display_name": TEXT}),
    language_info=st.fixed_dictionaries({"name": TEXT}, optional={"codemirror_mode": TEXT | OBJECT, "x": JSON}),
    orig_nbformat=st.integers(1, 4),
    signature=TEXT,
    title=TEXT,
    authors=st.lists(OBJECT, max_size=2),
)
CODE = st.fixed_dictionaries(
    {
        "cell_type": st.just("code"),
        "metadata": CELL_METADATA,
        "source": MULTILINE,
        "execution_count": COUNT,
        "outputs": st.lists(STREAM | DISPLAY | RESULT | ERROR, max_size=4),
    }
)
PROSE = st.fixed_dictionaries(
    {"cell_type": st.sampled_from(["markdown", "raw"]), "metadata": CELL_METADATA, "source": MULTILINE},
    optional={"attachments": st.dictionaries(TEXT, BUNDLE, max_size=2)},
)
CELL_ID = st.from_regex(r"[a-zA-Z0-9_-]{1,64}", fullmatch=True)


@st.composite
def notebooks(draw: st.DrawFn, minors: tuple[int, ...] = (0, 1, 2, 3, 4, 5)) -> dict[str, Any]:
    """A notebook that nbformat's schema allows."""
    minor = draw(st.sampled_from(minors))
    cells = draw(st.lists(CODE | PROSE, max_size=5))
    if minor >= 5:
        ids = draw(st.lists(CELL_ID, min_size=len(cells), max_size=len(cells), unique=True))
        cells = [{**cell, "id": cell_id} for cell, cell_id in zip(cells, ids, strict=True)]
    return {"nbformat": 4, "nbformat_minor": minor, "metadata": draw(NOTEBOOK_METADATA), "cells": cells}


def normal(content: str) -> str:
    """What nbformat reads from a file, as text that tells 1 from 1.0 and from true. Raises where it is not valid."""
    notebook = nbformat.reads(content, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    return json.dumps(notebook, sort_keys=True, indent=1)
