"""Every storage against a dict: what any order of calls leaves behind, seen by two storages at one place."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from tests.integration.codemode.conftest import Place

from cellyard.codemode.errors import ArtifactNameError, ArtifactNotFoundError
from cellyard.codemode.storage.protocols import StorageBackend

ARTIFACTS = st.sampled_from(["a", "a/b", "a/b/c", "b", "b/a", "a.json"])
WORKFLOWS = st.sampled_from(["one", "_two", "three"])
PACKAGES = st.sampled_from(["six", "a-b", "numpy"])
TOOLS = st.sampled_from(["curl", "jq"])
VALUES = st.sampled_from([None, 0, "text", "[1]", b"bytes", {"a": [1, 2.5]}, [], b"x" * (5 << 20)])
TEXTS = st.sampled_from(["", "said", "größer"])
WHO = st.integers(0, 1)


class Storages(RuleBasedStateMachine):
    """Two storages at one place, and what they must hold."""

    place: Place

    def __init__(self) -> None:
        super().__init__()
        first = self.place.new_address()
        self.storages: list[StorageBackend] = [self.place.open(address=first) for _ in range(2)]
        self.artifacts: dict[str, tuple[Any, str, dict[str, Any]]] = {}
        self.workflows: dict[str, tuple[str, str]] = {}
        self.deps: dict[str, str] = {}

    def collides(self, name: str) -> bool:
        """Whether an artifact cannot be because of another one above or below it."""
        others = set(self.artifacts) - {name}
        return any(name.startswith(f"{other}/") or other.startswith(f"{name}/") for other in others)

    @rule(who=WHO, name=ARTIFACTS, value=VALUES, description=TEXTS, metadata=st.sampled_from([{}, {"n": 1}]))
    def save(self, who: int, name: str, value: Any, description: str, metadata: dict[str, Any]) -> None:
        store = self.storages[who].get_artifact_store()
        if self.collides(name):
            with pytest.raises(ArtifactNameError):
                store.save(name, value, description, metadata)
        else:
            store.save(name, value, description, metadata)
            self.artifacts[name] = (value, description, metadata)

    @rule(who=WHO, name=ARTIFACTS)
    def delete(self, who: int, name: str) -> None:
        store = self.storages[who].get_artifact_store()
        store.delete(name)
        self.artifacts.pop(name, None)

    @rule(who=WHO, name=ARTIFACTS)
    def load(self, who: int, name: str) -> None:
        store = self.storages[who].get_artifact_store()
        if name in self.artifacts:
            assert store.load(name) == self.artifacts[name][0]
        else:
            with pytest.raises(ArtifactNotFoundError):
                store.load(name)

    @rule(who=WHO, name=WORKFLOWS, result=TEXTS, description=TEXTS)
    def create(self, who: int, name: str, result: str, description: str) -> None:
        source = f"def run(): return {result!r}"
        self.storages[who].get_workflow_library().create(name, source, description)
        self.workflows[name] = (source, description)

    @rule(who=WHO, name=WORKFLOWS)
    def remove(self, who: int, name: str) -> None:
        removed = self.storages[who].get_workflow_library().remove(name)
        assert removed == (self.workflows.pop(name, None) is not None)

    @precondition(lambda self: self.place.keeps_all)
    @rule(who=WHO, package=PACKAGES, version=st.sampled_from(["", "==1", ">=2"]))
    def need(self, who: int, package: str, version: str) -> None:
        self.storages[who].get_deps_store().put(package + version)
        self.deps[package] = package + version

    @precondition(lambda self: self.place.keeps_all)
    @rule(who=WHO, package=PACKAGES)
    def need_no_more(self, who: int, package: str) -> None:
        removed = self.storages[who].get_deps_store().remove(package)
        assert removed == (self.deps.pop(package, None) is not None)

    @invariant()
    def both_see_all(self) -> None:
        for storage in self.storages:
            known = {each.name: (each.description, each.metadata) for each in storage.get_artifact_store().list()}
            assert known == {name: (text, data) for name, (_, text, data) in self.artifacts.items()}
            workflows = {each.name: (each.source, each.description) for each in storage.get_workflow_store().list()}
            assert workflows == self.workflows
            assert storage.get_deps_store().list() == sorted(self.deps.values())


def test_any_order_of_calls_leaves_what_a_dict_would(place: Place) -> None:
    machine = type("Storages", (Storages,), {"place": place})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=12, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
