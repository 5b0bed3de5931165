"""Tokens through their lives: issued, used, expired, revoked; driven by hypothesis against a plain model."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule
from sqlalchemy import Connection, create_engine

from cellyard_controller.errors import InvalidRequest
from cellyard_controller.store import schema
from cellyard_controller.tenants import records, tokens
from cellyard_controller.tenants.tokens import Grant, Scope


@pytest.fixture
def connection() -> Iterator[Connection]:
    engine = create_engine("sqlite://")
    schema.metadata.create_all(engine)
    with engine.begin() as connection:
        yield connection
    engine.dispose()


def test_the_store_has_no_token(connection: Connection) -> None:
    issued = records.create(connection, "alice", {}, Grant())
    secret = issued.token.removeprefix(f"cy_{issued.token_id}_")
    assert len(secret) >= 43  # 256 bits
    rows = connection.exec_driver_sql("SELECT * FROM tokens").all()
    assert secret not in repr(rows)
    assert tokens.stored(connection)[tokens.digest(issued.token)].token_id == issued.token_id


def test_each_change_of_who_may_do_what_is_another_version(connection: Connection) -> None:
    seen = [records.version(connection)]
    issued = records.create(connection, "alice", {}, Grant())
    seen.append(records.version(connection))
    records.set_quotas(connection, "alice", {"sandboxes": "2"})
    seen.append(records.version(connection))
    records.issue(connection, "alice", Grant(name="another"))
    seen.append(records.version(connection))
    records.revoke(connection, "alice", issued.token_id)
    seen.append(records.version(connection))
    assert len(set(seen)) == 5
    records.listed(connection)
    assert records.version(connection) == seen[-1]


@pytest.mark.parametrize(
    ("grant", "says"),
    [
        (Grant(scope="root"), "unknown scope 'root': one of read, run, full"),
        (Grant(expires_in_s=0), "above 0"),
        (Grant(expires_in_s=-5), "above 0"),
        (Grant(expires_in_s=float("nan")), "above 0"),
        (Grant(expires_in_s=float("inf")), "above 0"),
        (Grant(name="x" * 65), "no name for a token"),
        (Grant(name="a\nb"), "no name for a token"),
        (Grant(certificate="x" * 257), "certificate"),
    ],
)
def test_what_cannot_be_granted(connection: Connection, grant: Grant, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        records.create(connection, "alice", {}, grant)


@pytest.mark.parametrize("name", ["", "local", "a b", "a/b", "x" * 65, "a\n"])
def test_what_cannot_be_a_tenant(connection: Connection, name: str) -> None:
    with pytest.raises(InvalidRequest, match="no name for a tenant"):
        records.create(connection, name, {}, Grant())


def test_a_tenant_is_made_once_and_its_quotas_are_checked(connection: Connection) -> None:
    records.create(connection, "alice", {"sandboxes": "2"}, Grant())
    with pytest.raises(InvalidRequest, match="exists already"):
        records.create(connection, "alice", {}, Grant())
    with pytest.raises(InvalidRequest, match="unknown quota"):
        records.set_quotas(connection, "alice", {"elephants": "1"})
    assert records.set_quotas(connection, "alice", {"cpu": "1"}).quotas == {"sandboxes": 2, "cpu": 1.0}
    for nobody in (
        lambda: records.set_quotas(connection, "bob", {}),
        lambda: records.issue(connection, "bob", Grant()),
        lambda: records.revoke(connection, "bob"),
    ):
        with pytest.raises(InvalidRequest, match="does not exist"):
            nobody()


def test_scopes_are_ordered() -> None:
    assert [[has.allows(needs) for needs in Scope] for has in Scope] == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]


class Lives(RuleBasedStateMachine):
    """Tenants whose tokens come and go while time passes."""

    issued: Bundle[tuple[str, str, str]] = Bundle("issued")

    def __init__(self) -> None:
        super().__init__()
        self.engine = create_engine("sqlite://")
        schema.metadata.create_all(self.engine)
        self.later = 0.0
        """How far the moment that is looked at lies in the future."""
        self.model: dict[str, float] = {}
        """When each token that was not revoked expires, by token."""
        with self.engine.begin() as connection:
            for name in ("alice", "bob"):
                records.create(connection, name, {}, Grant())
                records.revoke(connection, name)

    @rule(
        target=issued,
        tenant=st.sampled_from(["alice", "bob"]),
        expires=st.one_of(st.none(), st.integers(1_000, 100_000)),
        scope=st.sampled_from(list(Scope)),
    )
    def issue(self, tenant: str, expires: int | None, scope: Scope) -> tuple[str, str, str]:
        with self.engine.begin() as connection:
            new = records.issue(connection, tenant, Grant(scope=scope, expires_in_s=expires))
        self.model[new.token] = float("inf") if expires is None else time.time() + expires
        return tenant, new.token_id, new.token

    @rule(one=consumes(issued))
    def revoke(self, one: tuple[str, str, str]) -> None:
        tenant, token_id, token = one
        with self.engine.begin() as connection:
            other = "bob" if tenant == "alice" else "alice"
            with pytest.raises(InvalidRequest, match="has no token"):
                records.revoke(connection, other, token_id)
            if token in self.model:  # a tenant's tokens may have gone all together
                assert records.revoke(connection, tenant, token_id) == [token_id]
        self.model.pop(token, None)

    @rule(target=issued, some=st.lists(consumes(issued), max_size=3), tenant=st.sampled_from(["alice", "bob"]))
    def revoke_all(self, some: list[tuple[str, str, str]], tenant: str) -> object:
        with self.engine.begin() as connection:
            gone = set(records.revoke(connection, tenant))
        self.model = {token: expires for token, expires in self.model.items() if token.split("_")[1] not in gone}
        return multiple(*some)

    @rule(seconds=st.integers(1, 60_000))
    def look_later(self, seconds: int) -> None:
        self.later += seconds

    @invariant()
    def what_is_in_force_is_what_was_not_revoked_and_has_not_expired(self) -> None:
        with self.engine.connect() as connection:
            stored = tokens.stored(connection)
            counts = {record.name: record.tokens for record in records.listed(connection)}
        now = time.time()
        at = now + self.later
        in_force = {digest: token for digest, token in stored.items() if token.in_force(at)}
        expected = {tokens.digest(token) for token, expires in self.model.items() if at < expires}
        doubtful = {tokens.digest(token) for token, expires in self.model.items() if abs(at - expires) < 10}
        assert in_force.keys() - doubtful == expected - doubtful
        assert sum(counts.values()) == len(self.model)  # none expires before the test's end

    def teardown(self) -> None:
        self.engine.dispose()


Lives.TestCase.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
TestLives = Lives.TestCase
