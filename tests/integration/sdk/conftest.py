"""A scripted controller, and a way to it that can be cut."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.sdk import flavours
from tests.integration.sdk.faultline import Faultline
from tests.integration.sdk.scripted_controller import ScriptedController, serve


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose path leaves room for a socket's name."""
    folder = Path(tempfile.mkdtemp(prefix="cy-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def controller(short_folder: Path) -> Iterator[ScriptedController]:
    """A controller without a client yet; `line` leads to it."""
    scripted, _ = serve(short_folder)
    yield scripted
    scripted.stop()


@pytest.fixture
def line(controller: ScriptedController, short_folder: Path) -> Iterator[Faultline]:
    """The connection to the controller."""
    fault = Faultline(short_folder / "line.sock", short_folder / "controller.sock")
    yield fault
    fault.close()


@pytest.fixture
def endpoint(line: Faultline) -> str:
    """Where clients find the controller."""
    return f"unix:{line.path}"


@pytest.fixture(params=["async", "sync"])
def flavour(request: pytest.FixtureRequest) -> str:
    """Both flavours, one after the other."""
    return str(request.param)


@pytest.fixture
async def session(flavour: str, endpoint: str) -> AsyncIterator[Any]:
    """A session that is not connected yet."""
    open_session = flavours.session(flavour, endpoint=endpoint)
    yield open_session
    await open_session.close()
