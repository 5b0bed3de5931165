"""What running code sees of code mode: `tools`, `workflows`, `artifacts` and `deps`.

Their methods wait for the client, or the controller, that serves them, and may be called from any thread. They raise
the classes of cellyard_proto.codemode.errors. Workflows run here, where the code runs that calls them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Protocol

from cellyard_proto.codemode import artifacts as content_of
from cellyard_proto.codemode import names, workflow_runs
from cellyard_proto.codemode.errors import ToolNotFoundError, WorkflowNotFoundError

INLINE = 128 * 1024
"""Bytes of an artifact that go with the call itself; a larger one goes through a file, where there is a `Transfer`."""


class Ask(Protocol):
    """Makes a call: the function, the operation, and what it takes, all of it data. Returns data."""

    def __call__(self, function: str, operation: str, /, **arguments: Any) -> Any: ...


class Transfer(Protocol):
    """Files through which large contents come and go."""

    def new(self) -> str:
        """A place for one, relative to the home."""
        ...

    def write(self, place: str, content: bytes) -> None: ...

    def take(self, place: str) -> bytes:
        """What was put there."""
        ...

    def remove(self, place: str) -> None:
        """Nothing is there any more; without effect where nothing was."""
        ...


class Item(dict[str, Any]):
    """What a namespace tells of one thing: `item["name"]` and `item.name` are the same."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"there is no {name!r} in {sorted(self)}") from None

    def to_dict(self) -> dict[str, Any]:
        """The same as a plain dict."""
        return dict(self)


class Namespaces:
    """The four of them."""

    def __init__(self, ask: Ask, transfer: Transfer | None = None) -> None:
        self.tools = ToolsNamespace(ask)
        self.workflows = WorkflowsNamespace(ask, self.globals)
        self.artifacts = ArtifactsNamespace(ask, transfer)
        self.deps = DepsNamespace(ask)

    def globals(self) -> dict[str, Any]:
        """By the names under which code finds them."""
        return {name: getattr(self, name) for name in names.GLOBALS}


class ToolsNamespace:
    """Tools of the client that runs this code: `tools.NAME(...)`, `tools.NAME.RECIPE(...)`."""

    def __init__(self, ask: Ask) -> None:
        self._ask = partial(ask, names.TOOLS)
        self._known: dict[str, list[str] | None] = {}

    def list(self) -> list[Item]:
        """All tools: name, description, tags, and callables with their parameters."""
        return _items(self._ask("list"))

    def search(self, query: str, limit: int = 10) -> Sequence[Item]:
        """Tools that fit the query, best first."""
        return _items(self._ask("search", query=query, limit=limit))

    def __getattr__(self, name: str) -> Tool:
        if name.startswith("_"):
            raise AttributeError(f"no tool's name begins with _: {name!r}")
        if name not in self._known:
            self._known = self._ask("names")
        if name not in self._known:
            raise ToolNotFoundError(f"Tool {name!r} not found. Available: {_listed(self._known)}")
        return Tool(name, self._known[name], self._ask)

    def __dir__(self) -> Iterable[str]:
        return [*super().__dir__(), *self._known]

    def __repr__(self) -> str:
        return "<tools: tools.list(), tools.search(query), tools.NAME(...), tools.NAME.RECIPE(...)>"


class Tool:
    """A tool; call it, or one of its recipes, with keyword arguments."""

    def __init__(self, name: str, recipes: list[str] | None, ask: Callable[..., Any]) -> None:
        """`recipes`: None where only the call itself tells what there is, or what is wrong."""
        self._name, self._recipes, self._ask = name, recipes, ask

    def list(self) -> list[Item]:
        """Its recipes: name, description, parameters."""
        for tool in self._ask("list"):
            if tool["name"] == self._name:
                return _items(tool["callables"])
        raise ToolNotFoundError(f"Tool {self._name!r} not found")

    def __call__(self, *args: Any, **arguments: Any) -> Any:
        return self._call(None, *args, **arguments)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_") or (self._recipes is not None and name not in self._recipes):
            available = _listed(self._recipes or ())
            raise ToolNotFoundError(f"Unknown callable: {self._name}.{name}. Available: {available}")
        return partial(self._call, name)

    def __dir__(self) -> Iterable[str]:
        return ["list", *(self._recipes or ())]

    def __repr__(self) -> str:
        return f"<tool {self._name}: {_listed(self._recipes or ())}>"

    def _call(self, recipe: str | None, /, *args: Any, **arguments: Any) -> Any:
        called = f"tools.{self._name}" + ("" if recipe is None else f".{recipe}")
        if args:
            raise TypeError(f"{called}() takes keyword arguments only")
        return self._ask("call", tool=self._name, recipe=recipe, arguments=arguments)


class WorkflowsNamespace:
    """Kept workflows: `workflows.NAME(...)` runs one here, with these namespaces and none of this code's variables."""

    def __init__(self, ask: Ask, namespaces: Callable[[], dict[str, Any]]) -> None:
        self._ask = partial(ask, names.WORKFLOWS)
        self._namespaces = namespaces

    def list(self) -> list[Item]:
        """All workflows: name, description, parameters."""
        return [_workflow(found) for found in self._ask("list")]

    def search(self, query: str, limit: int = 10) -> Sequence[Item]:
        """Workflows that fit the query, best first."""
        return [_workflow(found) for found in self._ask("search", query=query, limit=limit)]

    def get(self, name: str) -> Item | None:
        """One of them with its source, None where there is none."""
        found = self._ask("get", name=name)
        return None if found is None else _workflow(found)

    def create(self, name: str, source: str, description: str = "") -> Item:
        """Keeps a workflow, in place of one of the same name: `def run(...)` or `async def run(...)`.

        Raises WorkflowValidationError. Nothing of it runs now.
        """
        return _workflow(self._ask("create", name=name, source=source, description=description))

    def delete(self, name: str) -> bool:
        """Removes one; False where there is none."""
        return bool(self._ask("delete", name=name))

    def invoke(self, workflow_name: str, /, **arguments: Any) -> Any:
        """Runs one and returns what its `run` returns. Raises WorkflowNotFoundError, and what it raises."""
        return getattr(self, workflow_name)(**arguments)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)
        found = self._ask("get", name=name)
        if found is None:
            raise WorkflowNotFoundError(f"Workflow not found: {name}")
        return partial(_keywords_only, name, partial(workflow_runs.run, name, found["source"], self._namespaces()))

    def __repr__(self) -> str:
        return "<workflows: workflows.list(), .search(query), .create(name, source, description), workflows.NAME(...)>"


class ArtifactsNamespace:
    """Kept values: bytes, str, and what JSON holds."""

    def __init__(self, ask: Ask, transfer: Transfer | None) -> None:
        self._ask = partial(ask, names.ARTIFACTS)
        self._transfer = transfer

    def list(self) -> list[Item]:
        """All artifacts: name, path, description, metadata, created_at."""
        return _items(self._ask("list"))

    def get(self, name: str) -> Item | None:
        """What is known of one, None where there is none."""
        found = self._ask("get", name=name)
        return None if found is None else Item(found)

    def exists(self, name: str) -> bool:
        """Whether there is one."""
        return bool(self._ask("exists", name=name))

    def delete(self, name: str) -> None:
        """Removes one, where there is one."""
        self._ask("delete", name=name)

    def save(self, name: str, data: Any, description: str = "", metadata: dict[str, Any] | None = None) -> Item:
        """Keeps a value, in place of one of the same name.

        Raises ArtifactNameError, and ArtifactDataError for what would not come back the same.
        """
        content_of.check_name(name)
        type_, content = content_of.encode(data)
        about = {"name": name, "description": description, "metadata": metadata}
        if self._transfer is None or is_inline(type_, data, len(content)):
            return Item(self._ask("save", data=bytes(content) if type_ == "bytes" else data, **about))
        place = self._transfer.new()
        try:
            self._transfer.write(place, content)
            return Item(self._ask("save", file={"path": place, "type": type_}, **about))
        finally:
            self._transfer.remove(place)

    def load(self, name: str) -> Any:
        """The value. Raises ArtifactNotFoundError."""
        if self._transfer is None:
            return self._ask("load", name=name)["data"]
        place = self._transfer.new()
        try:
            found = self._ask("load", name=name, into=place)
            if "data" in found:
                return found["data"]
            return content_of.decode(found["type"], self._transfer.take(place))
        finally:
            self._transfer.remove(place)

    def __repr__(self) -> str:
        return "<artifacts: artifacts.list(), .save(name, data), .load(name), .get(name), .exists(name), .delete(name)>"


class DepsNamespace:
    """Packages of this session."""

    def __init__(self, ask: Ask) -> None:
        self._ask = partial(ask, names.DEPS)

    def list(self) -> list[str]:
        """What is configured."""
        return [str(found) for found in self._ask("list")]

    def add(self, package: str) -> Item:
        """Installs a package, importable at once, and keeps it configured: installed, already_present, failed."""
        return self._changed(self._ask("add", package=package))

    def sync(self) -> Item:
        """Installs all that is configured: installed, already_present, failed."""
        return self._changed(self._ask("sync"))

    def remove(self, package: str) -> bool:
        """Uninstalls a package and configures it no more; False where it was not configured."""
        return bool(self._changed(self._ask("remove", package=package))["removed_from_config"])

    def _changed(self, told: dict[str, Any]) -> Item:
        importlib.invalidate_caches()
        return Item(told)

    def __repr__(self) -> str:
        return "<deps: deps.list(), .add(package), .remove(package), .sync()>"


def _items(told: Iterable[dict[str, Any]]) -> list[Item]:
    return [Item(each) for each in told]


def _workflow(told: dict[str, Any]) -> Item:
    shown = {each["name"]: each["description"] or each["type"] for each in told["parameters"]}
    return Item(told | {"params": shown})


def _keywords_only(name: str, run: Callable[..., Any], /, *args: Any, **arguments: Any) -> Any:
    if args:
        raise TypeError(f"workflows.{name}() takes keyword arguments only")
    return run(arguments)


def is_inline(type_: str, data: Any, size: int) -> bool:
    """Whether an artifact goes with a call as it is: small, and not deeper than values of calls may be nested."""
    return size <= INLINE and (type_ != "json" or _depth(data) < 24)


def _depth(data: Any) -> int:
    inner = data.values() if isinstance(data, dict) else data if isinstance(data, list) else ()
    return 1 + max(map(_depth, inner), default=0)


def _listed(found: Iterable[str]) -> str:
    found = sorted(found)
    more = f" (and {len(found) - 10} more)" if len(found) > 10 else ""
    return (", ".join(found[:10]) or "none") + more
