"""Tenants, tokens, quotas, usage and labels through the SDK's clients, in both flavours."""

from __future__ import annotations

import pytest
from tests.integration.sdk import flavours

import cellyard

from .conftest import Yard


@pytest.fixture(params=["sync", "async"])
def flavour(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def endpoint(yard: Yard) -> str:
    await yard.start()
    return f"unix:{yard.folder}/c.sock"


async def test_an_operator_administers_tenants(flavour: str, endpoint: str) -> None:
    async with flavours.client(flavour, endpoint) as operator:
        first = await operator.create_tenant("alice", {"sandboxes": 2, "memory": "4GiB", "cpu": None})
        assert first.token not in repr(first)
        second = await operator.issue_token("alice", name="ci", scope="run", expires_in=3600)
        (alice,) = await operator.list_tenants()
        assert (alice.name, alice.tokens, alice.quotas_set) == ("alice", 2, ("cpu", "memory", "sandboxes"))
        assert (alice.quotas["sandboxes"], alice.quotas["memory"], alice.quotas["cpu"]) == (2, 4 << 30, None)
        changed = await operator.set_quotas("alice", {"sandboxes": "default", "rate": 100.0})
        assert (changed.quotas["sandboxes"], changed.quotas["rate"]) == (None, 100.0)
        ci = (await operator.list_tokens("alice"))[1]
        assert (ci.token_id, ci.name, ci.scope, ci.certificate) == (second.token_id, "ci", "run", None)
        assert ci.expires_at is not None
        async with flavours.client(flavour, endpoint, second.token) as working:
            assert (await working.tenant()).name == "alice"
            for denied in (working.list_tenants, lambda: working.create_tenant("bob"), lambda: working.tenant("bob")):
                with pytest.raises(cellyard.PermissionDenied):
                    await denied()
            await operator.revoke("alice", second.token_id)
            with pytest.raises(cellyard.Unauthenticated):
                await working.tenant()
        await operator.revoke("alice")
        assert (await operator.tenant("alice")).tokens == 0
        for wrong, says in (
            (lambda: operator.create_tenant("alice"), "exists already"),
            (lambda: operator.create_tenant("bob", {"cpu": -1}), "cpu is not negative"),
            (lambda: operator.set_quotas("alice", {"elephants": 1}), "unknown quota 'elephants'"),
            (lambda: operator.issue_token("alice", scope="root"), "unknown scope"),
            (lambda: operator.issue_token("alice", expires_in=-1), "expires_in"),
        ):
            with pytest.raises(cellyard.InvalidRequest, match=says):
                await wrong()


async def test_what_is_exceeded_says_when_to_try_again(flavour: str, endpoint: str) -> None:
    async with flavours.client(flavour, endpoint) as operator:
        token = (await operator.create_tenant("alice", {"notebooks": 0})).token
    async with flavours.session(flavour, "nb", endpoint=endpoint, token=token) as session:
        with pytest.raises(cellyard.QuotaExceeded, match="quota notebooks of tenant 'alice'") as exceeded:
            await session.run("value 1")
    assert exceeded.value.retryable
    assert exceeded.value.details == {"tenant": "alice", "quota": "notebooks", "retry_after_s": 60.0}


async def test_isolation_whose_probe_is_only_late_may_be_asked_for_again(
    flavour: str, endpoint: str, yard: Yard
) -> None:
    yard.runtime.late = True
    require = {"require": ["container_isolation"]}
    async with flavours.session(flavour, "nb", endpoint=endpoint, **require) as session:
        with pytest.raises(
            cellyard.CapabilityUnavailable, match="did not answer within 20 s; it is probed again"
        ) as late:
            await session.run("value 1")
        assert late.value.retryable
        assert late.value.details == {"capability": "container_isolation", "retry_after_s": 30.0}
        yard.runtime.late = False
        assert (await session.run("value 1")).value == 1
    yard.runtime.granted = ()
    async with flavours.session(flavour, "other", endpoint=endpoint, **require) as session:
        with pytest.raises(cellyard.CapabilityUnavailable) as never:
            await session.run("value 1")
    assert not never.value.retryable


async def test_a_tenant_sees_its_usage_and_the_operator_all(flavour: str, endpoint: str) -> None:
    async with flavours.client(flavour, endpoint) as operator:
        token = (await operator.create_tenant("alice")).token
        async with flavours.session(flavour, "nb", endpoint=endpoint, token=token) as session:
            await session.run("print hello")
        async with flavours.client(flavour, endpoint, token) as alice:
            own = await alice.usage()
        (day,) = own.days
        assert (day.tenant, day.executions) == ("alice", 1)
        assert day.output_bytes >= len("hello\n")
        (kept,) = own.kept
        assert (kept.tenant, kept.notebooks) == ("alice", 1)
        assert kept.storage_bytes > 0
        assert day in (await operator.usage()).days
        with pytest.raises(cellyard.InvalidRequest, match="the tenant 'nobody' does not exist"):
            await operator.usage("nobody")
        assert (await operator.usage("local")).days == ()
        assert not (await operator.usage("alice", to_day=day.day.replace(year=2000, day=1))).days


async def test_labels_are_the_notebooks_and_lists_are_filtered_by_them(flavour: str, endpoint: str) -> None:
    labels = {"team": "data", "env": "prod"}
    async with flavours.session(flavour, "a", endpoint=endpoint, labels=labels) as session:
        await session.connect()
    async with flavours.session(flavour, "b", endpoint=endpoint, labels={"team": "web"}) as session:
        await session.run("value 1")
    async with flavours.client(flavour, endpoint) as client:
        assert {found.notebook_id: found.labels for found in await client.list_notebooks()} == {
            "a": labels,
            "b": {"team": "web"},
        }

        async def having(**wanted: str | None) -> list[str]:
            return [found.notebook_id for found in await client.list_notebooks(labels=wanted)]

        assert await having(team="data") == ["a"]
        assert await having(team=None) == ["a", "b"]
        assert await having(team="data", env="test") == []
        assert await client.set_labels("a", {"env": "test"}, remove=["team"]) == {"env": "test"}
        assert await having(team=None) == ["b"]
        for wrong, says in (
            ({'x"y': "1"}, "is no key of a label"),
            ({"": "1"}, "labels is empty"),
            ({"k": "x" * 257}, "has a value"),
            ({"k": "a\nb"}, "has a value"),
            ({f"k{n}": "" for n in range(33)}, "at most 32 labels"),
            ({"k": 1}, "must be a str"),
        ):
            with pytest.raises(cellyard.InvalidRequest, match=says):
                await client.set_labels("a", wrong)
        with pytest.raises(cellyard.NotebookNotFound):
            await client.set_labels("none", remove=["x"])
        with pytest.raises(cellyard.InvalidRequest, match="is no key of a label"):
            await having(**{"a' OR 1=1": "x"})


async def test_a_session_that_connects_again_does_not_undo_labels(flavour: str, endpoint: str) -> None:
    session = flavours.session(flavour, "a", endpoint=endpoint, labels={"team": "data"})
    await session.connect()
    await session.close()
    async with flavours.client(flavour, endpoint) as client:
        await client.set_labels("a", remove=["team"])
        await session.connect()
        assert (await client.list_notebooks())[0].labels == {}
    await session.close()
