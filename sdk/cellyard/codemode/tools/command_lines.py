"""Command lines from arguments. Pure; a value never becomes an option, and never goes through a shell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cellyard.codemode.errors import ToolCallError
from cellyard.codemode.tools.definitions import CliDefinition, Option, Recipe, RecipeParameter
from cellyard.codemode.tools.parameters import (
    Callable,
    Outline,
    Parameter,
    as_text,
    misfit,
    refuse_unknown,
    unknown_recipe,
)


def outline(definition: CliDefinition) -> Outline:
    """What the tool is from outside: its recipes; the tool itself where it has none."""
    callables = [
        Callable(name, recipe.description, tuple(_recipe_parameters(definition, recipe)))
        for name, recipe in definition.recipes.items()
    ] or [Callable(definition.name, definition.description, tuple(_parameters(definition).values()))]
    return Outline(
        definition.name, definition.description, tuple(definition.tags), tuple(callables), tuple(definition.recipes)
    )


def command_line(definition: CliDefinition, recipe: str | None, args: Mapping[str, Any]) -> list[str]:
    """The command and its arguments: options in the schema's order, then positionals.

    A recipe may be given every argument of the schema: its own parameters say what it is for, its preset is what the
    call may replace. An argument that is None counts as not given; _ in its name may stand for -.
    Raises ToolNotFoundError for an unknown recipe, ToolCallError for arguments that do not fit.
    """
    values = _values(definition, recipe, args)
    argv = list(definition.argv)
    for name, option in definition.schema_.options.items():
        if (value := values.get(_key(name))) is not None:
            argv += _option(name, option, value)
    positionals = list(_positionals(definition, values))
    for name, text in positionals:
        if text.startswith("-") and not definition.end_of_options:
            raise ToolCallError(f"{definition.name}: {name} begins with -, which {argv[0]} would take for an option")
    if any(text.startswith("-") for _, text in positionals):
        argv.append("--")
    return argv + [text for _, text in positionals]


def _key(name: str) -> str:
    return name.replace("-", "_")


def _parameters(definition: CliDefinition) -> dict[str, Parameter]:
    """The schema's, by key."""
    schema = definition.schema_
    found = [
        Parameter(_key(name), each.type, each.required, each.default, each.description)
        for name, each in schema.options.items()
    ]
    found += [
        Parameter(_key(each.name), each.type, each.required, each.default, each.description)
        for each in schema.positional
    ]
    return {each.name: each for each in found}


def _recipe_parameters(definition: CliDefinition, recipe: Recipe) -> Iterator[Parameter]:
    """Its own; without any, the schema's. What a preset or a default gives need not be given."""
    schema = _parameters(definition)
    preset = {_key(name): value for name, value in recipe.preset.items() if value is not None}
    params = {_key(name): each for name, each in recipe.params.items()}
    for name in params or schema:
        base = schema[name]
        own = params.get(name, RecipeParameter())
        default = preset.get(name, own.default)
        yield Parameter(
            name,
            own.type or base.type,
            (base.required or own.required) and default is None,
            base.default if default is None else default,
            own.description or base.description,
        )


def _values(definition: CliDefinition, recipe_name: str | None, args: Mapping[str, Any]) -> dict[str, Any]:
    """What the command gets, by key: of the call, else of the preset, else a default of the recipe's parameters."""
    if recipe_name is None and definition.name in definition.recipes:
        recipe_name = definition.name
    if recipe_name == definition.name and recipe_name not in definition.recipes:
        recipe_name = None
    schema = _parameters(definition)
    what = definition.name if recipe_name is None else f"{definition.name}.{recipe_name}"
    given: dict[str, Any] = {}
    for name, value in args.items():
        if _key(name) in given:
            raise ToolCallError(f"{what}: {name} is given twice")
        given[_key(name)] = value
    refuse_unknown(what, given, schema)
    types = {name: each.type for name, each in schema.items()}
    required = {name for name, each in schema.items() if each.required}
    values: dict[str, Any] = {}
    if recipe_name is not None:
        recipe = definition.recipes.get(recipe_name)
        if recipe is None:
            raise unknown_recipe(definition.name, recipe_name, definition.recipes)
        for name, parameter in recipe.params.items():
            values[_key(name)] = parameter.default
            types[_key(name)] = parameter.type or types[_key(name)]
            required |= {_key(name)} if parameter.required else set()
        values |= {_key(name): value for name, value in recipe.preset.items()}
    for name, value in given.items():
        if value is None:
            continue
        if reason := misfit(types[name], value):
            raise ToolCallError(f"{what}: {name} {reason}")
        values[name] = value
    for name in schema:
        if name in required and values.get(name) is None:
            raise ToolCallError(f"{what}: Required parameter '{name}' is missing")
    return values


def _option(name: str, option: Option, value: Any) -> list[str]:
    if option.type == "boolean":
        return [_flag(name, option)] if value else []
    return [
        part for item in (value if option.type == "array" else [value]) for part in _pair(name, option, as_text(item))
    ]


def _flag(name: str, option: Option) -> str:
    return f"-{option.short}" if option.short else f"--{name}"


def _pair(name: str, option: Option, value: str) -> list[str]:
    """A flag and its value: two arguments, but where the value would look like an option, one that holds both."""
    flag = _flag(name, option)
    if not value.startswith("-"):
        return [flag, value]
    if flag.startswith("--"):
        return [f"{flag}={value}"]
    if len(flag) == 2:
        # What getopt takes: the rest of a short option's argument is its value.
        return [f"{flag}{value}"]
    raise ToolCallError(f"{name} begins with -, which cannot be told from an option behind {flag}")


def _positionals(definition: CliDefinition, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name and text of each. One that is left out before one that is given is its default, else the call is refused."""
    declared = definition.schema_.positional
    given = [place for place, each in enumerate(declared) if values.get(_key(each.name)) is not None]
    for each in declared[: given[-1] + 1 if given else 0]:
        value = values.get(_key(each.name), None)
        if value is None:
            value = each.default
        if value is None:
            raise ToolCallError(
                f"{definition.name}: {declared[given[-1]].name} is given, but not {each.name}, which comes before it"
            )
        for item in value if each.type == "array" else [value]:
            yield each.name, as_text(item)
