"""What is asked of the engine about containers. Each call blocks; the runtime runs them in threads, with bounds."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import requests.exceptions
from docker import APIClient
from docker.errors import APIError, DockerException, NotFound

from cellyard_controller.runtimes import Instance, RuntimeFailed
from cellyard_controller.runtimes.docker.container import CONTROLLER_LABEL, OPEN_NETWORK, SANDBOX_LABEL

_REMOVED_WITHIN = 22
"""Seconds that somebody else's removal of a container may take."""
_LOG_LINES, _LOG_BYTES = 20, 4096
_ENDED = frozenset({"exited", "dead", "removing"})


def create_and_start(client: APIClient, *, name: str, settings: Mapping[str, Any], image_missing: str) -> str:
    """A container that runs. Raises RuntimeFailed where its image is missing."""
    if settings["HostConfig"]["NetworkMode"] == OPEN_NETWORK:
        _ensure_open_network(client)
    try:
        made = client.create_container_from_config(settings, name)  # type: ignore[no-untyped-call]
    except NotFound as missing:
        raise RuntimeFailed("image_missing", image_missing) from missing
    container_id = str(made["Id"])
    try:
        client.start(container_id)
    except BaseException:
        try:
            remove(client, container_id)
        except (DockerException, requests.exceptions.RequestException):
            pass  # the engine fails altogether; why the start failed counts, `instances` lists the rest
        raise
    return container_id


def _ensure_open_network(client: APIClient) -> None:
    if client.networks(names=[OPEN_NETWORK]):
        return
    try:
        client.create_network(  # it stays: several controllers may use it, and each next start does
            OPEN_NETWORK,
            driver="bridge",
            check_duplicate=True,
            options={"com.docker.network.bridge.enable_icc": "false"},
            labels={"cellyard.network": "open"},
        )
    except APIError as refused:
        if refused.status_code != HTTPStatus.CONFLICT:  # somebody else was faster
            raise


def remove(client: APIClient, container_id: str) -> None:
    """Ends and removes a container; one that is gone is no error."""
    try:
        client.remove_container(container_id, v=True, force=True)
    except NotFound:
        return
    except APIError as refused:
        if refused.status_code != HTTPStatus.CONFLICT:
            raise
        # Somebody else is removing it already; it is gone when that has come to its end.
        try:
            client.wait(container_id, timeout=_REMOVED_WITHIN, condition="removed")
        except NotFound:
            return


def inspect(client: APIClient, container_id: str) -> Instance | None:
    """One container as it stands, None where it is gone."""
    try:
        found = client.inspect_container(container_id)
    except NotFound:
        return None
    state, labels = found["State"], found["Config"]["Labels"] or {}
    status = state["Status"]
    return Instance(
        instance_id=found["Id"],
        sandbox_id=labels.get(SANDBOX_LABEL, ""),
        controller_id=labels.get(CONTROLLER_LABEL, ""),
        running=bool(state["Running"]),
        exit_code=state["ExitCode"] if status in _ENDED else None,
        oom_killed=bool(state["OOMKilled"]),
    )


def host_pid(client: APIClient, container_id: str) -> int:
    """The number of its first process on this machine, 0 where it has none."""
    try:
        return int(client.inspect_container(container_id)["State"]["Pid"])
    except NotFound:
        return 0


def listed(client: APIClient, controller_id: str) -> list[Instance]:
    """The containers of one controller."""
    found = client.containers(all=True, filters={"label": f"{CONTROLLER_LABEL}={controller_id}"})
    instances = []
    for summary in found:
        if summary["State"] in _ENDED:  # only an inspection tells how it ended
            instance = inspect(client, summary["Id"])
            instances += [instance] if instance is not None else []
            continue
        labels = summary["Labels"]
        running = summary["State"] != "created"
        instances.append(Instance(summary["Id"], labels.get(SANDBOX_LABEL, ""), labels[CONTROLLER_LABEL], running))
    return instances


def log_tail(client: APIClient, container_id: str) -> str:
    """The last lines that it wrote."""
    try:
        said = client.logs(container_id, tail=_LOG_LINES)
    except NotFound:
        return ""
    return said[-_LOG_BYTES:].decode(errors="replace")
