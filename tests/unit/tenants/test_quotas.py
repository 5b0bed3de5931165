"""Quotas as operators write them: what is understood, what is refused by name, and what holds for whom."""

from __future__ import annotations

from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellyard_controller.config import Config
from cellyard_controller.errors import InvalidRequest
from cellyard_controller.ids import LOCAL, TenantName
from cellyard_controller.tenants.quotas import KEYS, Quota, Quotas, changed, from_pairs, parse, words

FRACTIONS = {"cpu", "rate"}


@pytest.mark.parametrize(
    ("key", "text", "limit"),
    [
        ("sandboxes", "4", 4),
        ("memory", "4GiB", 4 << 30),
        ("memory", "1.5 GiB", 3 << 29),
        ("storage", "500MB", 500_000_000),
        ("storage", "1024", 1024),
        ("cpu", "0.5", 0.5),
        ("rate", "20", 20.0),
        ("notebooks", "0", 0),
        ("queued", "unlimited", None),
    ],
)
def test_what_operators_write(key: str, text: str, limit: int | float | None) -> None:
    assert parse(key, text) == limit


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("sandboxes", "-1", "sandboxes is not negative"),
        ("memory", "-4GiB", "memory is not negative"),
        ("memory", "4 elephants", "memory: '4 elephants' is no size"),
        ("memory", "9" * 400, "memory: .* is no size"),
        ("sandboxes", "1.5", "sandboxes: '1.5' is no whole number"),
        ("sandboxes", 1.5, "sandboxes is a whole number"),
        ("sandboxes", True, "sandboxes is a number"),
        ("sandboxes", -1, "sandboxes is a number from 0"),
        ("sandboxes", "9" * 30, "sandboxes is a number from 0"),
        ("cpu", "nan", "cpu is a number from 0"),
        ("cpu", "inf", "cpu is a number from 0"),
        ("cpu", "", "cpu: '' is no number"),
        ("rate", "0", "rate is a number of requests a second above 0"),
        ("elephants", "1", "unknown quota 'elephants': one of sandboxes, memory"),
    ],
)
def test_what_is_refused_names_the_key(key: str, value: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse(key, value)


@given(st.sampled_from(KEYS), st.one_of(st.text(max_size=30), st.integers(), st.floats(), st.none(), st.booleans()))
def test_whatever_is_written_is_a_limit_or_refused(key: str, value: object) -> None:
    refusal, limit = "", None
    try:
        limit = parse(key, value)
    except ValueError as refused:
        refusal = str(refused)
    assert not refusal or key in refusal
    if limit is not None:
        assert 0 <= limit <= 2**63
        assert isinstance(limit, int) or key in FRACTIONS


@given(st.dictionaries(st.sampled_from(KEYS), st.integers(1, 2**40).map(str)), st.sets(st.sampled_from(KEYS)))
def test_changes_touch_what_they_name_and_default_takes_back(changes: dict[str, str], back: set[str]) -> None:
    overrides = changed({}, changes)
    assert overrides.keys() == changes.keys()
    kept = changed(overrides, dict.fromkeys(back, "default"))
    assert kept == {key: limit for key, limit in overrides.items() if key not in back}


def test_pairs_of_a_command() -> None:
    assert from_pairs(["sandboxes=4", "memory=4GiB"]) == {"sandboxes": "4", "memory": "4GiB"}
    for wrong, says in (["sandboxes"], "is no quota"), (["cpu=1", "cpu=2"], "given twice"), (["cpu="], "is no quota"):
        with pytest.raises(InvalidRequest, match=says):
            from_pairs(wrong)


def test_what_was_set_for_a_tenant_goes_before_the_default() -> None:
    alice, bob = TenantName("alice"), TenantName("bob")
    quotas = Quotas(Quota(sandboxes=2, rate=10.0))
    quotas.refresh({alice: {"sandboxes": 8, "rate": None}})
    assert quotas.of(alice) == Quota(sandboxes=8)
    assert quotas.of(bob) == Quota(sandboxes=2, rate=10.0)
    assert quotas.of(LOCAL) == Quota()
    quotas.refresh({})
    assert quotas.of(alice) == quotas.of(bob)


def test_quotas_in_words() -> None:
    assert words(Quota(sandboxes=1_000_000, memory=4 << 30, rate=0.5)) == {
        "sandboxes": "1000000",
        "memory": "4.0 GiB",
        "rate": "0.5",
    }


def test_the_configuration_takes_them_as_commands_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELLYARD_QUOTAS__MEMORY", "4GiB")
    config = Config(quotas={"sandboxes": 4, "storage": "unlimited"})
    assert config.quotas.quota == Quota(sandboxes=4, memory=4 << 30)
    assert asdict(Config().quotas.quota) == asdict(Quota(memory=4 << 30))
    with pytest.raises(ValueError, match=r"quotas\.cpu\n.*cpu is not negative"):
        Config(quotas={"cpu": "-1"})
    with pytest.raises(ValueError, match=r"quotas\.elephants"):
        Config(quotas={"elephants": 1})
