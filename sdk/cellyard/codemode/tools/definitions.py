"""What tools' definitions may say, by type."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from cellyard.codemode.tools.parameters import bad_name, misfit
from cellyard_proto.codemode.names import RECIPE_METHODS

DEFAULT_TIMEOUT = 60.0
MAX_TIMEOUT = 24 * 3600.0
"""Seconds."""

_ALIASES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean", "list": "array", "dict": "object"}
_FLAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_PARAMETER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_VARIABLE = re.compile(r"\$\{([^{}]*)\}")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VISIBLE = re.compile(r"[\x20-\x7e\t]*")
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


def wrong(message: str) -> PydanticCustomError:
    return PydanticCustomError("definition", "{message}", {"message": message})


def _name(value: str) -> str:
    if reason := bad_name(value):
        raise wrong(reason)
    return value


def _recipe_name(value: str) -> str:
    if reason := bad_name(value, RECIPE_METHODS):
        raise wrong(reason)
    return value


def _parameter_name(value: str) -> str:
    if not _PARAMETER.fullmatch(value) or len(value) > 64:
        raise wrong(f"{value[:80]!r} is no name of a parameter")
    return value


def _short(value: str) -> str:
    if not _FLAG.fullmatch(value):
        raise wrong(f"{value[:80]!r} is no flag; the - before it is not written")
    return value


def _known_type(value: Any) -> Any:
    return _ALIASES.get(value, value) if isinstance(value, str) else value


def _from_environment(value: str) -> str:
    """`${NAME}` replaced by this process' variable."""

    def variable(found: re.Match[str]) -> str:
        if not _ENV_NAME.fullmatch(found[1]):
            raise wrong(f"${{{found[1][:80]}}} names no environment variable")
        if found[1] not in os.environ:
            raise wrong(f"the environment variable {found[1][:80]} is not set")
        return os.environ[found[1]]

    return _VARIABLE.sub(variable, value)


def _env(values: dict[str, str]) -> dict[str, str]:
    for name in values:
        if not _ENV_NAME.fullmatch(name):
            raise wrong(f"{name[:80]!r} is no name of an environment variable")
    return values


def _headers(values: dict[str, str]) -> dict[str, str]:
    """A value's own text is not in the message: it may be a secret."""
    seen: set[str] = set()
    for name, value in values.items():
        if not _HEADER.fullmatch(name):
            raise wrong(f"{name[:80]!r} is no name of a header")
        if name.lower() in seen:
            raise wrong(f"the header {name} a second time")
        seen.add(name.lower())
        if not _VISIBLE.fullmatch(value):
            raise wrong(f"the value of {name} holds characters that headers cannot have")
    return values


def _base_url(value: str) -> str:
    import httpx

    try:
        url = httpx.URL(value)
    except httpx.InvalidURL:
        raise wrong("no address") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise wrong("no address that begins with http:// or https://")
    if url.userinfo:
        raise wrong("an address with a user in it; give a header")
    if url.query or url.fragment or "?" in value or "#" in value:
        raise wrong("an address with ? or #")
    return value


def _path(value: str) -> str:
    if not value.startswith("/") or not _VISIBLE.fullmatch(value) or set(value) & set(" ?#\\\t"):
        raise wrong(
            "a path begins with / and holds neither blanks nor ?, #, \\; parameters of the query have in: query"
        )
    if "{" in _PLACEHOLDER.sub("", value) or "}" in _PLACEHOLDER.sub("", value):
        raise wrong("a brace without the other")
    return value


Name: TypeAlias = Annotated[str, AfterValidator(_name)]
RecipeName: TypeAlias = Annotated[str, AfterValidator(_recipe_name)]
ParameterName: TypeAlias = Annotated[str, AfterValidator(_parameter_name)]
Resolved: TypeAlias = Annotated[str, AfterValidator(_from_environment)]
CliType: TypeAlias = Annotated[Literal["string", "integer", "number", "boolean", "array"], BeforeValidator(_known_type)]
HttpType: TypeAlias = Annotated[
    Literal["string", "integer", "number", "boolean", "array", "object"], BeforeValidator(_known_type)
]
Timeout: TypeAlias = Annotated[float, Field(gt=0, le=MAX_TIMEOUT, allow_inf_nan=False)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Common(_Model):
    name: Name
    description: str = ""
    timeout: Timeout = DEFAULT_TIMEOUT
    """Seconds a call may take."""
    tags: list[str] = []


class Option(_Model):
    type: CliType = "string"
    short: Annotated[str, AfterValidator(_short)] | None = None
    description: str = ""
    required: bool = False
    default: Any = None
    """What the command does without it; shown, never passed."""


class Positional(_Model):
    name: ParameterName
    type: CliType = "string"
    description: str = ""
    required: bool = False
    default: Any = None
    """Shown; passed only where a later positional is given."""


class Schema(_Model):
    options: dict[Annotated[str, AfterValidator(_short)], Option] = {}
    positional: list[Positional] = []

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        seen: dict[str, str] = {}
        for name in [*self.options, *(each.name for each in self.positional)]:
            if (key := name.replace("-", "_")) in seen:
                raise wrong(f"{name!r} and {seen[key]!r} cannot be told apart")
            seen[key] = name
        for each in self.positional[:-1]:
            if each.type == "array":
                raise wrong(f"{each.name!r} takes the rest of the line, so it comes last")
        for place, each in enumerate(self.positional):
            if each.type == "boolean":
                raise wrong(f"the positional {each.name!r} cannot be a boolean")
            if each.default is not None and (reason := misfit(each.type, each.default)):
                raise wrong(f"positional.{place}.default: {reason}")
        return self


class RecipeParameter(_Model):
    type: CliType | None = None
    required: bool = False
    default: Any = None
    description: str = ""


class Recipe(_Model):
    description: str = ""
    preset: dict[str, Any] = {}
    params: dict[str, RecipeParameter] = {}


class CliDefinition(_Common):
    type: Literal["cli"] = "cli"
    command: Annotated[str, Field(min_length=1)] | Annotated[list[str], Field(min_length=1)] | None = None
    """One program, or a program and what always comes first on its command line; the tool's name without it."""
    env: Annotated[dict[str, Resolved], AfterValidator(_env)] = Field(default={}, repr=False)
    end_of_options: bool = True
    """Whether the command knows --."""
    schema_: Schema = Field(default=Schema(), alias="schema")
    recipes: dict[RecipeName, Recipe] = {}

    @property
    def argv(self) -> list[str]:
        if self.command is None:
            return [self.name]
        return [self.command] if isinstance(self.command, str) else list(self.command)

    @model_validator(mode="after")
    def _recipes_fit(self) -> Self:
        if not self.argv[0]:
            raise wrong("the command is empty")
        types = {name: option.type for name, option in self.schema_.options.items()}
        types |= {each.name: each.type for each in self.schema_.positional}
        known = {key: type_ for name, type_ in types.items() for key in (name, name.replace("-", "_"))}
        for recipe_name, recipe in self.recipes.items():
            where = f"recipes.{recipe_name}"
            for name, value in recipe.preset.items():
                if name not in known:
                    raise wrong(f"{where}.preset.{name}: the schema has no such option or positional")
                if reason := misfit(known[name], value):
                    raise wrong(f"{where}.preset.{name}: {reason}")
            for name, parameter in recipe.params.items():
                if name not in known:
                    raise wrong(f"{where}.params.{name}: the schema has no such option or positional")
                type_ = parameter.type or known[name]
                if {type_, known[name]} & {"array", "boolean"} and type_ != known[name]:
                    raise wrong(f"{where}.params.{name}.type: the schema says {known[name]}")
                if parameter.default is not None and (reason := misfit(type_, parameter.default)):
                    raise wrong(f"{where}.params.{name}.default: {reason}")
        return self


class HttpParameter(_Model):
    in_: Literal["path", "query", "header", "body"] | None = Field(default=None, alias="in")
    type: HttpType = "string"
    required: bool = False
    default: Any = None
    description: str = ""


class Endpoint(_Model):
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] = "GET"
    path: Annotated[str, AfterValidator(_path)]
    description: str = ""
    params: dict[ParameterName, HttpParameter] = {}

    @property
    def placeholders(self) -> list[str]:
        return _PLACEHOLDER.findall(self.path)

    def place(self, name: str) -> str:
        """Where a parameter goes: as it says, else where its name stands, else where the method has its data."""
        if (said := self.params[name].in_) is not None:
            return said
        if name in self.placeholders:
            return "path"
        return "body" if self.method in ("POST", "PUT", "PATCH") else "query"

    @model_validator(mode="after")
    def _params_fit(self) -> Self:
        for name in self.placeholders:
            if name not in self.params:
                raise wrong(f"path: {{{name[:80]}}} is none of params")
        for name, parameter in self.params.items():
            place = self.place(name)
            if (place == "path") != (name in self.placeholders):
                raise wrong(f"params.{name}.in: {place}, but the path is {self.path}")
            if place == "body" and self.method in ("GET", "HEAD"):
                raise wrong(f"params.{name}.in: a {self.method} has no body")
            if place == "header" and (
                not _HEADER.fullmatch(name)
                or name.lower() in ("host", "content-length", "transfer-encoding", "connection")
            ):
                raise wrong(f"params.{name}.in: no call can have its own header {name}")
            if place in ("path", "header") and parameter.type in ("array", "object"):
                raise wrong(f"params.{name}.type: no {parameter.type} fits in a {place}")
            if place == "query" and parameter.type == "object":
                raise wrong(f"params.{name}.type: no object fits in a query")
            if parameter.default is not None and (reason := misfit(parameter.type, parameter.default)):
                raise wrong(f"params.{name}.default: {reason}")
        return self


class HttpDefinition(_Common):
    type: Literal["http"]
    base_url: Annotated[str, AfterValidator(_base_url)]
    headers: Annotated[dict[str, Resolved], AfterValidator(_headers)] = Field(default={}, repr=False)
    endpoints: Annotated[dict[RecipeName, Endpoint], Field(min_length=1)]

    @model_validator(mode="after")
    def _headers_are_its_own(self) -> Self:
        fixed = {name.lower() for name in self.headers}
        for endpoint_name, endpoint in self.endpoints.items():
            for name in endpoint.params:
                if endpoint.place(name) == "header" and name.lower() in fixed:
                    raise wrong(f"endpoints.{endpoint_name}.params.{name}: a header that is set already")
        return self


class McpDefinition(_Common):
    type: Literal["mcp"]
    transport: Literal["stdio", "http", "sse"] = "stdio"
    command: Annotated[str, Field(min_length=1)] | None = None
    args: list[str] = []
    env: Annotated[dict[str, Resolved], AfterValidator(_env)] = Field(default={}, repr=False)
    url: Annotated[str, Field(min_length=1)] | None = None
    headers: Annotated[dict[str, Resolved], AfterValidator(_headers)] = Field(default={}, repr=False)

    @model_validator(mode="after")
    def _fields_fit(self) -> Self:
        if self.transport == "stdio":
            wanted = "command"
            given: dict[str, object] = {"url": self.url, "headers": self.headers}
        else:
            wanted = "url"
            given = {"command": self.command, "args": self.args, "env": self.env}
        for name, value in given.items():
            if value:
                raise wrong(f"{name}: not with transport {self.transport}")
        if getattr(self, wanted) is None:
            raise wrong(f"{wanted} is missing")
        if self.url is not None and not re.match(r"https?://[^/@\s]+(/\S*)?\Z", self.url):
            raise wrong("url: no address that begins with http:// or https://")
        return self


Definition: TypeAlias = CliDefinition | HttpDefinition | McpDefinition

TYPES: Mapping[str, type[CliDefinition] | type[HttpDefinition] | type[McpDefinition]] = {
    "cli": CliDefinition,
    "http": HttpDefinition,
    "mcp": McpDefinition,
}
