"""The compose file's PostgreSQL, as the file sets it up, in a container of an image made of the distribution's package.

The image does with the settings what the one that the file names documents of itself; no registry is asked.
"""

from __future__ import annotations

import io
import re
import socket
import subprocess
import tarfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import psycopg
import pytest
import yaml

from tests.postgres_server import programs

pytestmark = [pytest.mark.docker, pytest.mark.timeout(180)]  # an image of 100 MB is made, and a database in it

PACKAGING = Path(__file__).parents[2] / "packaging" / "compose"
WITHIN = 60.0
UID = 999
START = r"""#!/bin/sh
set -eu
password=$(cat "$POSTGRES_PASSWORD_FILE")
mkdir -p "$PGDATA" && chown 999:999 "$PGDATA" && chmod 700 "$PGDATA"
as_postgres() { setpriv --reuid=999 --regid=999 --clear-groups "$@"; }
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  printf %s "$password" >/tmp/password && chown 999:999 /tmp/password
  as_postgres initdb --username="$POSTGRES_USER" --pwfile=/tmp/password --auth=scram-sha-256 --locale=C.UTF-8
  echo "CREATE DATABASE \"$POSTGRES_DB\";" | as_postgres postgres --single -D "$PGDATA" postgres
fi
exec setpriv --reuid=999 --regid=999 --clear-groups "$@"
"""


@pytest.fixture
def client() -> Iterator[docker.DockerClient]:
    client = docker.from_env(timeout=120)
    yield client
    client.close()


@pytest.fixture
def image(client: docker.DockerClient) -> Iterator[str]:
    """PostgreSQL as the distribution has it, with its libraries."""
    repository = f"cellyard-test-postgres-{uuid.uuid4().hex[:8]}"
    changes = ['ENTRYPOINT ["/start"]', f"ENV PATH={programs()}:/usr/bin:/bin", "ENV PGDATA=/var/lib/postgresql/data"]
    client.api.import_image_from_data(root(), repository=repository, tag="16", changes=changes)
    try:
        yield f"{repository}:16"
    finally:
        client.images.remove(f"{repository}:16", force=True)


def root() -> bytes:
    """The files that it takes, as an archive."""
    library = programs().parent / "lib"
    wanted = [Path(f"/usr/bin/{name}") for name in ("sh", "cat", "mkdir", "chown", "chmod", "setpriv")]
    wanted += [*programs().iterdir(), *library.glob("*.so")]
    done = subprocess.run(["ldd", *map(str, wanted)], capture_output=True, text=True)  # not all of them need any
    needed = {Path(path) for path in re.findall(r"(?:=>|^)\s+(/\S+) \(0x", done.stdout, re.MULTILINE)}
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for path in (*wanted, *needed):
            # `/lib` leads to `/usr/lib` there as here, and what a link leads to stands under the link's own name.
            archive.add(
                path.resolve(), str(path if path.is_relative_to("/usr") else Path("/usr") / path.relative_to("/"))
            )
        archive.add(Path("/usr/share/postgresql"), "usr/share/postgresql")
        archive.add(Path("/usr/share/zoneinfo"), "usr/share/zoneinfo")
        archive.add(Path("/usr/lib/locale/C.utf8"), "usr/lib/locale/C.utf8")
        for name in ("bin", "lib", "lib64"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, f"usr/{name}"
            archive.addfile(link)
        for name, mode in (("tmp", 0o1777), ("var/run/postgresql", 0o1777), ("run", 0o755)):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, mode
            archive.addfile(folder)
        for name, text, mode in (
            ("start", START, 0o755),
            ("etc/passwd", f"postgres:x:{UID}:{UID}::/:/bin/sh\n", 0o644),
        ):
            file = tarfile.TarInfo(name)
            file.size, file.mode = len(text), mode
            archive.addfile(file, io.BytesIO(text.encode()))
    return written.getvalue()


def test_the_database_beside_the_controller_is_reached_by_the_url_and_the_password_that_the_files_say(
    folder: Path, client: docker.DockerClient, image: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    said: dict[str, Any] = yaml.safe_load((PACKAGING / "postgres.yaml").read_text().replace("5432", str(port)))
    controller, postgres = said["services"]["controller"], said["services"]["postgres"]
    beside = yaml.safe_load((PACKAGING / "compose.yaml").read_text())["services"]
    assert beside.keys() == {"controller"}, "the two files are about the same one"
    assert postgres["image"] == "postgres:16"
    assert postgres["volumes"] == ["postgres:/var/lib/postgresql/data"]
    password = folder / "postgres_password"
    password.write_text("not to be guessed")
    password.chmod(0o600)
    in_container = controller["environment"]["CELLYARD_STORE__PASSWORD_FILE"]
    assert in_container == f"/run/secrets/{Path(said['secrets']['postgres_password']['file']).name}"
    assert postgres["secrets"] == controller["secrets"] == ["postgres_password"]

    container = client.containers.create(
        image,
        postgres["command"],
        environment=postgres["environment"],
        network_mode=postgres["network_mode"],
        volumes=[f"{password}:{in_container}:ro"],
        shm_size=postgres["shm_size"],
    )
    try:
        container.start()
        give_up = time.monotonic() + WITHIN
        while container.exec_run(postgres["healthcheck"]["test"][1:]).exit_code != 0:
            assert time.monotonic() < give_up, container.logs().decode()
            time.sleep(0.2)
        url = controller["environment"]["CELLYARD_STORE__URL"]
        with psycopg.connect(url, password=password.read_text()) as connection:
            connection.execute("CREATE TABLE own (one integer)")
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(url, password="guessed")
        container.stop(timeout=int(postgres["stop_grace_period"].removesuffix("s")))
        assert container.wait(timeout=WITHIN)["StatusCode"] == 0, container.logs().decode()
    finally:
        container.remove(force=True, v=True)
