"""What the operator's commands share: exit codes, options, the configuration, and how they end."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError

from cellyard_controller.config import Config

DONE, FAILED, USAGE, NO_CONTROLLER, REFUSED = 0, 1, 2, 3, 4

Data = Annotated[Path | None, typer.Option("--data", help="Data folder.", show_default="the user's own")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def configuration(file: Path | None, flags: dict[str, Any]) -> Config:
    """The configuration in force; ends the process with a sentence where it is wrong."""
    file = file or file_of_environment()
    if file is not None:
        if not file.is_file():
            end(USAGE, f"the configuration file {file} does not exist")
        os.environ["CELLYARD_CONFIG"] = str(file)
    try:
        return Config(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as bad:
        first = bad.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        where = f"{key}: " if key else ""  # where settings do not fit together the message names them
        end(USAGE, f"configuration: {where}{first['msg'].removeprefix('Value error, ')}")
    except ValueError as bad:
        end(USAGE, f"configuration: {bad}")


def file_of_environment() -> Path | None:
    """The configuration file that CELLYARD_CONFIG names."""
    named = os.environ.get("CELLYARD_CONFIG")
    return Path(named) if named else None


def end(code: int, message: str) -> NoReturn:
    """Ends the process with a sentence."""
    print(f"cellyard: {message}", file=sys.stderr)
    sys.exit(code)
