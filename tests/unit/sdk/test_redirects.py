"""Where a redirect may lead, and what is never sent along."""

from __future__ import annotations

from pathlib import Path

import pytest

import cellyard
from cellyard import _redirects
from cellyard._redirects import Routes, target
from cellyard.endpoint import TLS, Endpoint, resolve
from cellyard.errors import NotOwner

TOKEN = "t" * 20
CA = TLS("ca.pem", "cert.pem", "key.pem")
SOCKET = Endpoint("unix:/run/c.sock", Path("/run/c.sock"))
SOCKET_WITH_TOKEN = Endpoint("unix:/run/c.sock", Path("/run/c.sock"), TOKEN)


def said(endpoint: str) -> NotOwner:
    return NotOwner("it is elsewhere", details={"endpoint": endpoint, "node": "b", "notebook_id": "nb"})


@pytest.mark.parametrize(
    ("home", "to", "found"),
    [
        (Endpoint("a:1", None, TOKEN, CA), "b:1", Endpoint("b:1", None, TOKEN, CA)),
        (Endpoint("a:1", None, TOKEN), "b:1", Endpoint("b:1", None, TOKEN)),  # the user has chosen to go without
        (Endpoint("127.0.0.1:1", None, TOKEN), "127.0.0.1:2", Endpoint("127.0.0.1:2", None, TOKEN)),
        (Endpoint("127.0.0.1:1", None, TOKEN, CA), "b:1", Endpoint("b:1", None, TOKEN, CA)),
        (Endpoint("a:1", None, TOKEN, CA), "127.0.0.1:2", Endpoint("127.0.0.1:2", None, TOKEN, CA)),
        (SOCKET, "unix:/run/d.sock", Endpoint("unix:/run/d.sock", Path("/run/d.sock"))),
        (SOCKET_WITH_TOKEN, "unix:/run/d.sock", Endpoint("unix:/run/d.sock", Path("/run/d.sock"), TOKEN)),
        (SOCKET_WITH_TOKEN, "[::1]:2", Endpoint("[::1]:2", None, TOKEN)),
        (
            resolve("unix:/run/c.sock", TOKEN, environ={"CELLYARD_CA": "ca.pem"}),
            "b:1",
            Endpoint("b:1", None, TOKEN, TLS("ca.pem")),
        ),
    ],
)
def test_it_is_followed_with_what_the_user_has_named(home: Endpoint, to: str, found: Endpoint) -> None:
    assert target(home, home, said(to)) == found


@pytest.mark.parametrize(
    ("home", "to", "kind", "says"),
    [
        (SOCKET, "b:1", cellyard.Unauthenticated, "on node 'b', whose controller at b:1 wants a token"),
        (SOCKET_WITH_TOKEN, "b:1", cellyard.ControllerUnavailable, "b:1, where the token would travel without TLS"),
        (
            Endpoint("127.0.0.1:1", None, TOKEN),
            "b:1",
            cellyard.ControllerUnavailable,
            "b:1, where the token would travel without TLS",
        ),
        (Endpoint("a:1", None, TOKEN), "unix:/run/c.sock", cellyard.ControllerUnavailable, "not followed from a:1"),
        (Endpoint("a:1", None, TOKEN), "", cellyard.ControllerUnavailable, "'', which is no endpoint"),
        (Endpoint("a:1", None, TOKEN), "http://b/", cellyard.ControllerUnavailable, "which is no endpoint"),
        (Endpoint("a:1", None, TOKEN), "b:99999", cellyard.ControllerUnavailable, "which is no endpoint"),
    ],
)
def test_it_is_not_followed(home: Endpoint, to: str, kind: type[cellyard.CellyardError], says: str) -> None:
    with pytest.raises(kind, match=says) as refused:
        target(home, home, said(to))
    assert not refused.value.retryable
    assert refused.value.details["notebook_id"] == "nb"


def test_what_is_known_is_bounded_and_forgotten_only_where_it_still_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_redirects, "_MOST_ROUTES", 2)
    b, c = Endpoint("b:1", None), Endpoint("c:1", None)
    routes = Routes()
    for name in ("one", "two", "one", "three"):
        routes.note(name, b)
    assert [routes.find(name) for name in ("one", "two", "three")] == [b, None, b]
    routes.note("one", c)
    routes.forget("one", b)
    assert routes.find("one") == c
    routes.forget("one", c)
    assert routes.find("one") is None
