"""Workflows as sources: what they are called, what they take. Read by parsing alone; nothing of them is executed.

Sources come from anybody. CPython's parser bounds its own depth (6,000 rules, which take up to 1 MiB of the C stack),
and that of the tree that it makes by the recursion limit, however long the source is; so what is nested or chained
too deep is an error, and no crash, in every thread whose stack is 2 MiB or more. It holds the interpreter's lock all
the while, a second or two and 250 MB for the worst source there can be: who has others waiting parses in a process of
its own.
"""

from __future__ import annotations

import ast
import json
import keyword
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from cellyard_proto.codemode import parsing
from cellyard_proto.codemode.errors import WorkflowValidationError
from cellyard_proto.codemode.names import GLOBALS, WORKFLOW_METHODS

MAX_NAME = 64
"""Characters of a name."""
MAX_SOURCE = 256 * 1024
"""Characters of a source."""
MAX_DESCRIPTION = 4096
"""Characters of a description."""
MAX_PARAMETERS = 100
"""Parameters of `run`."""
MAX_DEFAULT = 1000
"""Characters of a parameter's default; a longer one is cut."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TYPES = {
    "str": "string",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "list": "array",
    "tuple": "array",
    "set": "array",
    "dict": "object",
}
_Run: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a workflow's `run`."""

    name: str
    type: str
    """As JSON Schema names types; "string" for what has none there."""
    required: bool
    default: Any = None
    """A short literal's value as JSON has it, the source of any other default; None where there is none."""
    description: str = ""


@dataclass(frozen=True, slots=True)
class Workflow:
    """A source that `run` can be called of."""

    name: str
    description: str
    source: str
    parameters: tuple[Parameter, ...]

    def summary(self) -> dict[str, Any]:
        """Name, description and parameters, as data."""
        parameters = [
            {
                "name": each.name,
                "type": each.type,
                "description": each.description,
                "required": each.required,
                "default": each.default,
            }
            for each in self.parameters
        ]
        return {"name": self.name, "description": self.description, "parameters": parameters}

    def as_data(self) -> dict[str, Any]:
        """The same with the source."""
        return self.summary() | {"source": self.source}


def check_name(name: object) -> str:
    """A workflow's name. Raises WorkflowValidationError."""
    if not isinstance(name, str):
        raise WorkflowValidationError(f"a workflow's name is a str, not {type(name).__name__}")
    if len(name) > MAX_NAME:
        raise WorkflowValidationError(f"a workflow's name has at most {MAX_NAME} characters, not {len(name)}")
    if not _NAME.fullmatch(name):
        raise WorkflowValidationError(
            f"Invalid workflow name: {name!r} (must be a valid Python identifier of ASCII letters, digits and _)"
        )
    if keyword.iskeyword(name):
        raise WorkflowValidationError(f"Invalid workflow name: {name!r} is a keyword of Python")
    if name in WORKFLOW_METHODS or name.startswith("__"):
        raise WorkflowValidationError(f"Reserved workflow name: {name!r}")
    return name


def parse(name: object, source: object, description: object = "") -> Workflow:
    """Reads a workflow. Without a description it is the first line of the module's docstring, or of run's.

    Raises WorkflowValidationError: a wrong name, a source that is no Python or has no `run` at its top level.
    """
    checked = check_name(name)
    tree = _tree(source)
    run = _run(tree)
    try:
        return Workflow(checked, _description(tree, run, description), str(source), tuple(_parameters(run)))
    except WorkflowValidationError:
        raise
    except (ValueError, RecursionError) as bad:  # of a number that is too long, of expressions nested too deep
        raise WorkflowValidationError(f"run's parameters cannot be read: {bad}") from None


def _tree(source: object) -> ast.Module:
    if not isinstance(source, str):
        raise WorkflowValidationError(f"a workflow's source is a str, not {type(source).__name__}")
    if len(source) > MAX_SOURCE:
        raise WorkflowValidationError(f"a workflow's source has at most {MAX_SOURCE} characters, not {len(source)}")
    try:
        source.encode()
        return parsing.tree(source)
    except SyntaxError as bad:
        line = "" if bad.lineno is None else f"line {bad.lineno}: "
        raise WorkflowValidationError(f"Syntax error in workflow code: {line}{bad.msg}") from None
    # A zero byte or half a surrogate pair; nested too deep, which some versions call an error of their own.
    except (ValueError, RecursionError, MemoryError, SystemError) as bad:
        raise WorkflowValidationError(f"Syntax error in workflow code: {str(bad) or 'too deeply nested'}") from None


def _run(tree: ast.Module) -> _Run:
    found = [node for node in tree.body if isinstance(node, _Run) and node.name == "run"]
    if not found:
        raise WorkflowValidationError("a workflow must define 'def run(...)' or 'async def run(...)' at its top level")
    if found[-1].args.posonlyargs:
        raise WorkflowValidationError("run's parameters are given by name: it cannot have positional-only ones")
    if len(found[-1].args.args) + len(found[-1].args.kwonlyargs) > MAX_PARAMETERS:
        raise WorkflowValidationError(f"run has at most {MAX_PARAMETERS} parameters")
    return found[-1]


def _description(tree: ast.Module, run: _Run, given: object) -> str:
    if not isinstance(given, str):
        raise WorkflowValidationError(f"a workflow's description is a str, not {type(given).__name__}")
    if len(given) > MAX_DESCRIPTION:
        raise WorkflowValidationError(f"a description has at most {MAX_DESCRIPTION} characters, not {len(given)}")
    if _halves(given):
        raise WorkflowValidationError("the description holds half of a surrogate pair, which UTF-8 cannot have")
    if given:
        return given
    docstring = ast.get_docstring(tree) or ast.get_docstring(run) or ""
    return docstring.strip().split("\n", 1)[0][:MAX_DESCRIPTION].encode(errors="replace").decode()


def _parameters(run: _Run) -> Iterator[Parameter]:
    arguments = run.args
    missing = len(arguments.args) - len(arguments.defaults)
    defaults = [*([None] * missing), *arguments.defaults, *arguments.kw_defaults]
    for argument, default in zip([*arguments.args, *arguments.kwonlyargs], defaults, strict=True):
        if argument.arg not in GLOBALS:
            yield Parameter(argument.arg, _type(argument.annotation), default is None, _value(default))


def _type(annotation: ast.expr | None) -> str:
    match annotation:
        case ast.Name(id=name):
            return _TYPES.get(name, "string")
        case ast.Constant(value=str(text)):
            return _TYPES.get(text.partition("[")[0].strip(), "string")
        case ast.Subscript(value=ast.Name(id="Optional"), slice=inner):
            return _type(inner)
        case ast.Subscript(value=outer):
            return _type(outer)
        case ast.BinOp(op=ast.BitOr(), left=left, right=ast.Constant(value=None)):
            return _type(left)
        case ast.BinOp(op=ast.BitOr(), left=ast.Constant(value=None), right=right):
            return _type(right)
    return "string"


def _value(default: ast.expr | None) -> Any:
    if default is None:
        return None
    try:
        # What travels as JSON: a tuple is a list there, and a set is nothing.
        data = json.dumps(ast.literal_eval(default), ensure_ascii=False, allow_nan=False)
        if len(data) <= MAX_DEFAULT and not _halves(data):
            return json.loads(data)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        pass
    text = ast.unparse(default)
    return text if len(text) <= MAX_DEFAULT else f"{text[:MAX_DEFAULT]}..."


def _halves(text: str) -> bool:
    """Whether a text holds half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
