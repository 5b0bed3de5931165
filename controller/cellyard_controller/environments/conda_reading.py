"""Reads what clients send to define an environment of conda packages: pure.

As `reading` does: names, versions and builds are taken, and whatever names a place, or a channel that is not the
operator's, is refused with the line. What is written down here is all that the solver is given.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import yaml

from cellyard_controller.config import EnvironmentsConfig
from cellyard_controller.environments.definition import Definition
from cellyard_controller.environments.toml import parse_toml
from cellyard_controller.errors import CapabilityUnavailable, InvalidRequest

_LONGEST, _SHOWN, _DEEPEST = 1000, 120, 10
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_VERSION = re.compile(r"(?:[=!~]=|[<>]=?|=)?[0-9A-Za-z_.+!*-]+")
_BUILD = re.compile(r"[0-9A-Za-z_.+*-]+")
_YML = ("name", "channels", "dependencies", "prefix")
"""What of an environment.yml is read, or means nothing here."""
_OTHER_TABLES = ("pypi-dependencies", "host-dependencies", "build-dependencies", "constraints")
_PIXI_LISTED = ("version", "build")
_OURS = re.compile(r"unix|linux")


def require_channels(source: str, config: EnvironmentsConfig) -> None:
    """Raises CapabilityUnavailable where there is nothing that packages could come from."""
    if not config.conda.channels:
        raise CapabilityUnavailable(
            f"{source} cannot be had: this controller has no conda channel (environments.conda.channels)",
            env_source=source,
        )


def prewarmed(config: EnvironmentsConfig) -> Definition:
    """What the operator has defined as conda:prewarmed. Raises InvalidRequest."""
    listed = [("environments.conda.prewarmed", each) for each in config.conda.prewarmed]
    return _definition(listed, [], config)


def read_conda_list(requirements: Sequence[str], channels: Sequence[str], config: EnvironmentsConfig) -> Definition:
    """A list, as it stands in a notebook's metadata. Raises InvalidRequest."""
    _check_size(sum(len(each.encode()) for each in (*requirements, *channels)), "the dependencies", config)
    listed = [(f"dependency {at}", each) for at, each in enumerate(requirements, start=1)]
    return _definition(listed, [(f"channel {at}", each) for at, each in enumerate(channels, start=1)], config)


def read_environment_yml(content: str, config: EnvironmentsConfig) -> Definition:
    """An environment.yml: `channels` and `dependencies`. Raises InvalidRequest."""
    name = "environment.yml"
    _check_size(len(content.encode()), name, config)
    root = _parse_yaml(content, name)
    for key in root:
        if key not in _YML:
            raise InvalidRequest(f"{_at(name, content, key)}: {key[:_SHOWN]!r} is not supported")
    listed: list[tuple[str, str]] = []
    channels, dependencies = _list(root, "channels", name), _list(root, "dependencies", name)
    _check_count(len(channels) + len(dependencies), config)  # before each is looked for in the text
    for each in dependencies:
        if isinstance(each, dict):
            raise InvalidRequest(
                f"{_at(name, content, next(iter(each), 'pip'))}: a section like pip is not supported: list packages of "
                "the channels, or use a pyproject.toml"
            )
        if not isinstance(each, str):
            raise InvalidRequest(f"{name}: dependencies is no list of strings")
        listed.append((_at(name, content, each), each))
    if not all(isinstance(each, str) for each in channels):
        raise InvalidRequest(f"{name}: channels is no list of strings")
    return _definition(listed, [(_at(name, content, each), each) for each in channels], config)


def read_pixi(content: str, config: EnvironmentsConfig) -> Definition:
    """A pixi.toml: the channels of its workspace, and the dependencies of its default environment.

    Raises InvalidRequest, also for what would add to that environment and is not supported.
    """
    name = "pixi.toml"
    _check_size(len(content.encode()), name, config)
    root = parse_toml(content, name)
    workspace = _table(root, "workspace", name) or _table(root, "project", name)
    _check_pixi(root, content, name)
    given, dependencies = _list(workspace, "channels", name), _table(root, "dependencies", name)
    _check_count(len(given) + len(dependencies), config)
    listed = [
        (_at(name, content, package), _pixi_requirement(_at(name, content, package), package, wanted))
        for package, wanted in dependencies.items()
    ]
    channels = []
    for each in given:
        named = each.get("channel") if isinstance(each, dict) and set(each) == {"channel"} else each
        if not isinstance(named, str):
            raise InvalidRequest(f"{_at(name, content, 'channels')}: a channel is a string; priorities are their order")
        channels.append((_at(name, content, named), named))
    return _definition(listed, channels, config)


def _check_pixi(root: Mapping[str, Any], content: str, name: str) -> None:
    """Nothing that belongs to the default environment is left out in silence."""
    places = [("", root)]
    for target, table in _table(root, "target", name).items():
        if _OURS.match(target) and isinstance(table, dict):
            places.append((f"target.{target}.", table))
            if table.get("dependencies"):
                raise InvalidRequest(f"{_at(name, content, target)}: target.{target}.dependencies is not supported")
    for prefix, table in places:
        for other in _OTHER_TABLES:
            if table.get(other):
                raise InvalidRequest(
                    f"{_at(name, content, other)}: {prefix}{other} is not supported: list packages of the channels "
                    "under dependencies"
                )
    if _table(root, "environments", name).get("default"):
        raise InvalidRequest(f"{_at(name, content, 'default')}: features of the default environment are not supported")


def _pixi_requirement(where: str, package: str, wanted: Any) -> str:
    if isinstance(wanted, str):
        return f"{package} {wanted}"
    if not isinstance(wanted, dict) or not all(isinstance(each, str) for each in wanted.values()):
        raise InvalidRequest(f"{where}: {package[:_SHOWN]!r} is neither a version nor a table of strings")
    for key in wanted:
        if key not in _PIXI_LISTED:
            raise InvalidRequest(f"{where}: {package[:_SHOWN]!r} has {key[:_SHOWN]!r}: version and build are all")
    version = wanted.get("version", "*")
    return f"{package} {version} {wanted['build']}" if "build" in wanted else f"{package} {version}"


def _definition(
    listed: Sequence[tuple[str, str]], channels: Sequence[tuple[str, str]], config: EnvironmentsConfig
) -> Definition:
    _check_count(len(listed) + len(channels), config)
    requirements = {_requirement(where, text) for where, text in listed}
    known = config.conda.by_name
    names = dict.fromkeys(_channel(where, text, known) for where, text in channels if text.strip() != "nodefaults")
    return Definition("conda", tuple(sorted(requirements)), channels=tuple(names or known))


def _channel(where: str, text: str, known: Mapping[str, str]) -> str:
    """The name of one of the operator's channels."""
    given = text.strip().rstrip("/")
    for name, url in known.items():
        if given in (name, _without_secrets(url)):
            return name
    shown = _without_secrets(given)[:_SHOWN]
    raise InvalidRequest(
        f"{where}: the channel {shown!r} is not allowed: the operator's are {', '.join(known)}", channel=shown
    )


def _without_secrets(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return url
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")


def _requirement(where: str, text: str) -> str:
    """One requirement, in the one way to spell it."""
    shown = text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
    given = text.strip()
    if len(text) > _LONGEST or not given.isprintable():
        raise InvalidRequest(f"{where}: {shown!r} is no requirement", requirement=shown)
    if "://" in given or "file:" in given.lower() or given[:1] in "./~\\" or given.endswith((".conda", ".tar.bz2")):
        raise InvalidRequest(f"{where}: {shown!r} names a place: only names and versions can be had", requirement=shown)
    if "::" in given:
        raise InvalidRequest(f"{where}: {shown!r} names a channel: list it under channels", requirement=shown)
    if "[" in given:
        raise InvalidRequest(f"{where}: {shown!r} has brackets: only versions and builds can be had", requirement=shown)
    found = _NAME.match(given)
    parts = _parts(given[found.end() :]) if found else None
    if found is None or parts is None:
        raise InvalidRequest(f"{where}: {shown!r} is no requirement as conda has them", requirement=shown)
    return " ".join((found[0].lower(), *parts))


def _parts(rest: str) -> tuple[str, ...] | None:
    """Version and build, as many as there are; None where it is neither."""
    text = re.sub(r"\s*([,|])\s*", r"\1", re.sub(r"([=<>!~])\s+", r"\1", rest.strip()))
    if not text:
        return ()
    fuzzy = re.fullmatch(r"=([^=<>!~,|\s]+)(?:=([^=\s]+))?", text)  # conda's own: NAME=1.2=BUILD
    if fuzzy:
        version = fuzzy[1] if fuzzy[1].endswith("*") or fuzzy[2] else f"{fuzzy[1]}.*"
        words = [version, *([fuzzy[2]] if fuzzy[2] else [])]
    else:
        words = text.split()
    if len(words) > 2 or not all(_VERSION.fullmatch(each) for each in re.split(r"[,|]", words[0])):
        return None
    if len(words) == 2 and not _BUILD.fullmatch(words[1]):
        return None
    version = words[0] if "|" in words[0] else ",".join(sorted(set(words[0].split(","))))
    if version == "*" and len(words) == 1:
        return ()
    return (version, *words[1:])


def _parse_yaml(content: str, name: str) -> dict[str, Any]:
    """Mappings, lists and strings alone: a version is never a number. What could grow, or be more, is refused."""
    depth = documents = 0
    try:
        for event in yaml.parse(content, Loader=yaml.CBaseLoader):
            mark = event.start_mark
            where = f"{name}, line {mark.line + 1}" if mark is not None else name
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
                raise InvalidRequest(f"{where}: anchors and aliases are refused")
            if getattr(event, "tag", None) is not None:
                raise InvalidRequest(f"{where}: tags are refused")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            documents += isinstance(event, yaml.DocumentStartEvent)
            if depth > _DEEPEST or documents > 1:
                raise InvalidRequest(f"{where}: nested too deeply, or more than one document")
        root = yaml.load(content, Loader=yaml.CBaseLoader)
    except yaml.YAMLError as bad:
        mark = bad.problem_mark if isinstance(bad, yaml.MarkedYAMLError) else None
        place = f", line {mark.line + 1}" if mark is not None else ""
        raise InvalidRequest(f"{name}{place} is no YAML: {getattr(bad, 'problem', None) or 'unreadable'}") from None
    if not isinstance(root, dict) or not all(isinstance(key, str) for key in root):
        raise InvalidRequest(f"{name} is no mapping")
    return root


def _check_size(size: int, what: str, config: EnvironmentsConfig) -> None:
    if size > config.definition:
        raise InvalidRequest(f"{what}: {size} bytes, at most {config.definition} are allowed")


def _check_count(count: int, config: EnvironmentsConfig) -> None:
    if count > config.requirements:
        raise InvalidRequest(f"{count} dependencies and channels are listed; at most {config.requirements} are allowed")


def _table(parent: Mapping[str, Any], key: str, name: str) -> dict[str, Any]:
    value = parent.get(key, {})
    if not isinstance(value, dict):
        raise InvalidRequest(f"{name}: {key} is no table")
    return value


def _list(parent: Mapping[str, Any], key: str, name: str) -> list[Any]:
    value = parent.get(key) or []
    if not isinstance(value, list):
        raise InvalidRequest(f"{name}: {key} is no list")
    return value


def _at(name: str, content: str, text: str) -> str:
    """Where this stands, as well as can be told."""
    place = content.find(text)
    return name if place < 0 else f"{name}, line {content.count(chr(10), 0, place) + 1}"
