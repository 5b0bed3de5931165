"""Code as a tree, whatever other threads parse."""

from __future__ import annotations

import ast
import builtins
from typing import Any

import pytest

from cellyard_proto.codemode import parsing, workflows


def test_a_failure_that_is_another_threads_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    failures = [SystemError("AST constructor recursion depth mismatch (before=21, after=17)")] * 3
    whole = builtins.compile

    def compiled(*arguments: Any, **options: Any) -> Any:
        if failures:
            raise failures.pop()
        return whole(*arguments, **options)

    monkeypatch.setattr(parsing, "compile", compiled, raising=False)
    assert workflows.parse("w", "def run(a: int): ...").parameters[0].type == "integer"
    assert failures == []


def test_what_is_wrong_with_the_source_is_raised_as_it_is() -> None:
    assert isinstance(parsing.tree("x = 1").body[0], ast.Assign)
    with pytest.raises(SyntaxError, match="invalid syntax"):
        parsing.tree("a b")
    with pytest.raises(SyntaxError, match="outside"):
        compile(parsing.tree("await x"), "<test>", "exec")
    assert parsing.tree("await x", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT).body
