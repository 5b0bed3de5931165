"""What is written to the log of an exception, and how large a log in a file becomes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, text

from cellyard_controller.errors import InvalidRequest
from cellyard_controller.logs import without_content


def logged(error: BaseException) -> str:
    return str(without_content(None, "", {"exc_info": error})["exception"])


def raised(work: Any) -> BaseException:
    try:
        work()
    except Exception as error:  # whatever it is
        return error
    raise AssertionError("nothing was raised")


def test_an_exception_is_told_by_its_kind_and_place_and_never_quotes_what_was_sent() -> None:
    engine = create_engine("sqlite://")

    def write() -> None:
        with engine.connect() as connection:
            connection.execute(text("INSERT INTO nowhere VALUES (:source)"), {"source": "secret-source"})

    said = logged(raised(write))
    assert "sqlalchemy.exc.OperationalError" in said
    assert "test_logs.py" in said
    assert "from\n" in said
    assert "secret" not in said
    assert "secret" not in logged(raised(lambda: int("secret")))
    engine.dispose()


def test_what_our_own_errors_and_the_system_say_is_kept(tmp_path: Path) -> None:
    assert logged(InvalidRequest("the limit is 7")) == "InvalidRequest: the limit is 7"
    assert logged(raised((tmp_path / "absent").read_text)).endswith("FileNotFoundError: No such file or directory")


def test_a_log_in_a_file_is_begun_anew_when_it_is_too_large_and_what_was_in_it_is_kept_once(tmp_path: Path) -> None:
    program = (
        "import structlog; from cellyard_controller import logs; from cellyard_controller.config import LogConfig\n"
        "logs.configure(LogConfig(format='json', max_bytes=20_000))\n"
        "for number in range(2_000): structlog.get_logger().warning('something', number=number)\n"
    )
    log = tmp_path / "controller.log"
    with log.open("ab") as file:
        subprocess.run([sys.executable, "-c", program], stderr=file, check=True, timeout=60)
    assert log.stat().st_size <= 20_500
    assert (tmp_path / "controller.log.1").stat().st_size <= 20_500
    lines = [json.loads(line) for line in (tmp_path / "controller.log.1").read_text().splitlines()]
    lines += [json.loads(line) for line in log.read_text().splitlines()]
    numbers = [line["number"] for line in lines]
    assert numbers == list(range(numbers[0], 2_000))  # the last ones, none lost in between


def test_what_is_no_file_of_its_own_is_left_alone(tmp_path: Path) -> None:
    log = tmp_path / "log"
    program = (
        "import sys; from cellyard_controller.logs import _bounded\nassert _bounded(sys.stderr, 1) is sys.stderr\n"
    )
    with log.open("wb") as file:  # as a shell's `2> log`: begun anew it would have a hole
        subprocess.run([sys.executable, "-c", program], stderr=file, check=True, timeout=60)
    subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, check=True, timeout=60)
