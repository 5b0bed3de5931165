"""Where a redirect leads: to a controller that gets what the first one got, and no less carefully. Pure.

A redirect is a controller's word that another one has a notebook. It names an address and nothing else: the token and
the files for TLS are those of the endpoint that the user has named, and travel nowhere less protected than there.
"""

from __future__ import annotations

from cellyard.endpoint import Endpoint, parse
from cellyard.errors import ControllerUnavailable, InvalidRequest, NotOwner, Unauthenticated

_MOST_ROUTES = 1024


class Routes:
    """Where notebooks were found last, apart from those that are where one asks first."""

    def __init__(self) -> None:
        self._known: dict[str, Endpoint] = {}

    def find(self, notebook_id: str) -> Endpoint | None:
        """Where it was found last; None for at home."""
        return self._known.get(notebook_id)

    def note(self, notebook_id: str, endpoint: Endpoint) -> None:
        """It is there."""
        self._known.pop(notebook_id, None)
        self._known[notebook_id] = endpoint
        if len(self._known) > _MOST_ROUTES:  # the oldest: asking at home finds it again
            del self._known[next(iter(self._known))]

    def forget(self, notebook_id: str, endpoint: Endpoint) -> None:
        """It is not there, or nobody answers there; what was found out meanwhile stays."""
        if self._known.get(notebook_id) == endpoint:
            del self._known[notebook_id]

    def clear(self) -> None:
        """Nothing is known any more."""
        self._known.clear()


def target(home: Endpoint, by: Endpoint, said: NotOwner) -> Endpoint:
    """The endpoint to ask next. `home`: the one that the user has named, `by`: the one that has said so.

    Raises ControllerUnavailable for a redirect that is not followed, Unauthenticated where a token would be needed.
    """
    node, details = said.details.get("node", ""), said.details
    words = said.details.get("endpoint", "")
    try:
        name, path = parse(words)
    except InvalidRequest:
        raise ControllerUnavailable(
            f"the controller at {by.name} redirects to {words!r}, which is no endpoint", details=details
        ) from None
    if path is not None:
        if home.socket is None:  # a socket here is not for those beyond this machine to choose
            raise ControllerUnavailable(
                f"the controller at {by.name} redirects to {name}: a unix socket is not followed from {home.name}",
                details=details,
            )
        return Endpoint(name, path, home.token)
    if home.socket is not None and home.token is None:
        raise Unauthenticated(
            f"authentication failed: the notebook is on node {node!r}, whose controller at {name} wants a token: "
            "name that endpoint, and a token",
            details=details,
        )
    found = Endpoint(name, None, home.token, home.tls if home.socket is None else home.tls_beyond)
    if found.token and found.tls is None and home.loopback and not found.loopback:
        raise ControllerUnavailable(
            f"the controller at {by.name} redirects to {name}, where the token would travel without TLS: set "
            "CELLYARD_CA (a file, or `system`), or name that endpoint",
            details=details,
        )
    return found
