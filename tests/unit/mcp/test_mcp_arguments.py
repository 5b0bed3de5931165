"""Whatever JSON a client sends as arguments: it fits, or a short sentence names what does not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cellyard.errors import InvalidRequest
from cellyard.mcp import arguments
from cellyard.mcp.arguments import Arguments
from cellyard.mcp.server import TOOLS

_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
_JSON = _LEAVES | st.lists(_LEAVES, max_size=3) | st.dictionaries(st.text(max_size=5), _LEAVES, max_size=3)
_NAMES = [*sorted({name for tool in TOOLS.values() for name in tool.takes.model_fields}), "else", ""]


def _parsed(name: str, sent: dict[str, Any]) -> tuple[Arguments | None, str]:
    try:
        return arguments.parse(name, TOOLS[name].takes, sent), ""
    except InvalidRequest as refused:
        return None, str(refused)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(TOOLS)), st.dictionaries(st.sampled_from(_NAMES), _JSON, max_size=5))
def test_arguments_fit_or_are_named(name: str, sent: dict[str, Any]) -> None:
    taken, said = _parsed(name, sent)
    if taken is None:
        assert "argument" in said
        assert len(said) < 2000
        assert "pydantic" not in said
        return
    for key, value in sent.items():
        # Nothing was made of it that it is not: "5" is no 5, and true is no 1.
        assert getattr(taken, key) == value
        assert isinstance(getattr(taken, key), bool) == isinstance(value, bool)


def test_what_was_sent_is_not_repeated() -> None:
    with pytest.raises(InvalidRequest) as refused:
        arguments.parse("run_code", arguments.RunCode, {"code": {"secret" * 1000: 1}})
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan"), 10**9, True, "5"])
def test_a_time_limit_is_a_number_of_seconds(seconds: object) -> None:
    with pytest.raises(InvalidRequest, match="timeout_s"):
        arguments.parse("run_code", arguments.RunCode, {"code": "1", "timeout_s": seconds})
