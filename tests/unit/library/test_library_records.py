"""Any mix of writes, removals, crashes, restarts and collections: what is kept is there, once, and nothing else.

Real store, real files, real library; what crashes is the transaction between its files and its commit.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import Connection
from tests.postgres_server import PostgresServer
from tests.stores import KINDS, Ground, kept_digests

from cellyard_controller.config import LibraryConfig
from cellyard_controller.errors import ArtifactNameInvalid, ArtifactNotFound, QuotaExceeded
from cellyard_controller.executions import blob_uses
from cellyard_controller.ids import TenantName
from cellyard_controller.library import artifact_records, artifacts, workflow_records
from cellyard_controller.library.artifacts import Artifacts
from cellyard_controller.library.places import Place, change_once
from cellyard_controller.library.workflow_records import WorkflowRecord
from cellyard_controller.store.requests import UNNAMED, Request
from cellyard_controller.tenants import kept
from cellyard_controller.tenants.allowances import Allowances
from cellyard_controller.tenants.quotas import Quotas

LIMITS = LibraryConfig(workflows=3, sources=2000, artifacts=4, artifact=100_000)
ALICE, BOB = TenantName("alice"), TenantName("bob")
PLACES = st.sampled_from([Place(ALICE), Place(ALICE, "w"), Place(BOB)])
NAMES = st.sampled_from(["a", "a/b", "b", "c"])
CONTENTS = st.sampled_from([b"", b"one", b"two" * 1000])
WORKFLOWS = st.sampled_from(["f", "g"])
SUMMARY = '{"description":"","parameters":[]}'


class Crash(Exception):
    """The controller dies between its files and its commit."""


class Yard:
    """A data folder."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.open()

    def open(self) -> None:
        self.store = self.ground.open()
        self.artifacts = Artifacts(self.store, Allowances(Quotas(), self.store), LIMITS)

    def restart(self) -> None:
        self.store.close()
        self.open()

    def close(self) -> None:
        self.store.close()
        self.ground.close()

    def files(self) -> set[str]:
        return kept_digests(self.store)

    async def write(self, place: Place, name: str, content: bytes, request: Request = UNNAMED) -> None:
        said = artifacts.about(name, "bytes", "", {"of": name})
        async with self.artifacts.writing(place, said, len(content)) as writing:
            await writing.add(content)
            await self.artifacts.keep(place, said, writing, await writing.finish(), request)

    async def crash(self, place: Place, name: str, content: bytes) -> None:
        """As `write`, up to the commit."""
        said = artifacts.about(name, "bytes", "", {})
        async with self.artifacts.writing(place, said, len(content)) as writing:
            await writing.add(content)
            digest = await writing.finish()

            def die(connection: Connection) -> None:
                self.store.blobs.take(connection, writing.incoming, digest)
                raise Crash

            with pytest.raises(Crash):
                await self.store.write(die)

    async def read(self, place: Place, name: str) -> bytes:
        _, file = await self.artifacts.read(place, name)
        with file:
            return file.read()


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class Machine(RuleBasedStateMachine):
    """Two tenants, three places, and a dict of what they must hold."""

    def __init__(self, ground: Ground) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.yard = Yard(ground)
        self.artifacts: dict[tuple[Place, str], bytes] = {}
        self.workflows: dict[tuple[Place, str], str] = {}

    def teardown(self) -> None:
        self.yard.close()
        self.runner.close()

    def do(self, work: Any) -> Any:
        return self.runner.run(work)

    @rule(place=PLACES, name=NAMES, content=CONTENTS)
    def write(self, place: Place, name: str, content: bytes) -> None:
        others = {key for where, key in self.artifacts if where == place} - {name}
        mine = sum(where.tenant == place.tenant for where, _ in self.artifacts)
        if any(name.startswith(f"{each}/") or each.startswith(f"{name}/") for each in others):
            with pytest.raises(ArtifactNameInvalid):
                self.do(self.yard.write(place, name, content))
        elif (place, name) not in self.artifacts and mine >= LIMITS.artifacts:
            with pytest.raises(QuotaExceeded):
                self.do(self.yard.write(place, name, content))
        else:
            self.do(self.yard.write(place, name, content))
            self.artifacts[place, name] = content

    @rule(place=PLACES, name=NAMES)
    def remove(self, place: Place, name: str) -> None:
        removed = self.do(self.yard.artifacts.remove(place, name, UNNAMED))
        assert removed == (self.artifacts.pop((place, name), None) is not None)

    @rule(place=PLACES, name=NAMES, content=CONTENTS, again=st.booleans())
    def crash(self, place: Place, name: str, content: bytes, again: bool) -> None:
        self.do(self.yard.crash(place, name, content))
        if not again:
            self.yard.restart()

    @rule()
    def restart(self) -> None:
        self.yard.restart()

    @rule()
    def collect(self) -> None:
        self.do(blob_uses.collect(self.yard.store))
        assert self.yard.files() == {digest_of(content) for content in self.artifacts.values()}

    @rule(place=PLACES, name=NAMES, content=CONTENTS)
    def collect_beside_a_write(self, place: Place, name: str, content: bytes) -> None:
        """Files are collected while the same content comes into use, and while it is read."""
        if (place, name) not in self.artifacts:
            return

        async def work() -> None:
            collect = partial(blob_uses.collect, self.yard.store)
            before = self.artifacts[place, name]
            _, _, _, read = await asyncio.gather(
                collect(), self.yard.write(place, name, content), collect(), self.yard.read(place, name)
            )
            assert read in (before, content)

        self.do(work())
        self.artifacts[place, name] = content

    @rule(place=PLACES, name=WORKFLOWS, size=st.sampled_from([10, 400, 1900]))
    def put(self, place: Place, name: str, size: int) -> None:
        record = WorkflowRecord(name, "#" * size, "", SUMMARY)
        mine = {key: source for key, source in self.workflows.items() if key[0].tenant == place.tenant}
        others = sum(len(source) for key, source in mine.items() if key != (place, name))
        sizes = others + size + (len(mine | {(place, name): ""})) * (1 + len(SUMMARY))
        put = partial(workflow_records.put, place=place, record=record, limits=LIMITS)
        if sizes > LIMITS.sources or ((place, name) not in mine and len(mine) >= LIMITS.workflows):
            with pytest.raises(QuotaExceeded):
                self.do(self.yard.store.write(put))
        else:
            self.do(self.yard.store.write(put))
            self.workflows[place, name] = record.source

    @rule(place=PLACES, name=WORKFLOWS)
    def take_away(self, place: Place, name: str) -> None:
        removed = self.do(self.yard.store.write(partial(workflow_records.remove, place=place, name=name)))
        assert removed == (self.workflows.pop((place, name), None) is not None)

    @invariant()
    def each_place_has_its_own(self) -> None:
        for place in (Place(ALICE), Place(ALICE, "w"), Place(BOB)):
            found, more = self.do(self.yard.artifacts.page(place))
            assert {each.name: each.size for each in found} == {
                name: len(content) for (where, name), content in self.artifacts.items() if where == place
            }
            list_all = partial(workflow_records.listed, place=place, limit=10, after="", max_bytes=10**6, sources=True)
            sources, more_workflows = self.do(self.yard.store.read(list_all))
            assert {each.name: each.source for each in sources} == {
                name: source for (where, name), source in self.workflows.items() if where == place
            }
            assert not more
            assert not more_workflows

    @invariant()
    def contents_are_there(self) -> None:
        assert {digest_of(content) for content in self.artifacts.values()} <= self.yard.files()
        for (place, name), content in self.artifacts.items():
            assert self.do(self.yard.read(place, name)) == content

    @invariant()
    def what_counts_is_what_is_kept(self) -> None:
        for tenant in (ALICE, BOB):
            measure = partial(kept.measured, blobs=self.yard.store.blobs, tenant=tenant)
            contents = {content for (place, _), content in self.artifacts.items() if place.tenant == tenant}
            about = sum(
                len(name) + len(f'{{"of": "{name}"}}') for (place, name) in self.artifacts if place.tenant == tenant
            )
            sources = [source for (place, _), source in self.workflows.items() if place.tenant == tenant]
            size = sum(map(len, contents)) + about + sum(len(source) + 1 + len(SUMMARY) for source in sources)
            assert self.do(self.yard.store.read(measure)).storage_bytes == size


@pytest.mark.parametrize(("kind", "examples"), [("sqlite", 20), ("postgresql", 3), ("rows", 4)])
def test_any_mix(kind: str, examples: int, postgres: PostgresServer) -> None:
    run_state_machine_as_test(
        lambda: Machine(Ground(kind, postgres)),
        settings=settings(max_examples=examples, stateful_step_count=20, deadline=None),
    )


@pytest.fixture(params=KINDS)
def yard(request: pytest.FixtureRequest) -> Iterator[Yard]:
    """On each database, its large parts in files and in rows."""
    yard = Yard(Ground(request.param, request.getfixturevalue("postgres") if request.param != "sqlite" else None))
    yield yard
    yard.close()


@pytest.fixture
def files_yard() -> Iterator[Yard]:
    """With files in a folder."""
    yard = Yard(Ground("sqlite"))
    yield yard
    yard.close()


async def test_a_change_is_made_once_for_a_request_and_answers_alike(yard: Yard) -> None:
    place, request = Place(ALICE), Request("r", b"digest")
    await yard.write(place, "a", b"x")
    remove = partial(artifact_records.remove, place=place, name="a")
    assert await change_once(yard.store, ALICE, request, remove) is True
    await yard.write(place, "a", b"y")
    assert await change_once(yard.store, ALICE, request, remove) is True
    assert await yard.read(place, "a") == b"y"
    assert await change_once(yard.store, BOB, request, partial(artifact_records.remove, place=place, name="b")) is False


async def test_a_content_that_is_missing_is_told_and_not_taken_for_another(yard: Yard) -> None:
    await yard.write(Place(ALICE), "a", b"x")
    await yard.store.write(lambda connection: yard.store.blobs.remove(connection, yard.files()))
    with pytest.raises(Exception, match="its content is missing"):
        await yard.artifacts.read(Place(ALICE), "a")
    with pytest.raises(ArtifactNotFound):
        await yard.artifacts.read(Place(BOB), "a")


async def test_who_gives_up_in_the_middle_of_a_write_leaves_no_file(files_yard: Yard) -> None:
    async def work() -> None:
        async with files_yard.artifacts.writing(Place(ALICE), artifacts.about("a", "bytes", "", {}), 10) as writing:
            await writing.add(b"12345")
            begun.set()
            await asyncio.Event().wait()

    begun = asyncio.Event()
    task = asyncio.ensure_future(work())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list((files_yard.ground.folder / "blobs").iterdir()) == []


async def test_a_disk_that_takes_nothing_says_so(files_yard: Yard) -> None:
    blobs = files_yard.ground.folder / "blobs"
    blobs.rmdir()
    blobs.write_text("no folder")
    with pytest.raises(Exception, match="does not take writes"):
        await files_yard.write(Place(ALICE), "a", b"x")
