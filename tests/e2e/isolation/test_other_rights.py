"""Programs with the rights of their owner: a sandbox has none, makes none, and one that is there has no effect."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

import cellyard
from tests.controller_process import Process

from .conftest import Careless

pytestmark = pytest.mark.docker

PLANT = """
import os, shutil
os.chmod({folder!r}, 0o755)
path = os.path.join({folder!r}, {name!r})
shutil.copyfile(os.path.realpath('/usr/bin/python3'), path)
{then}
"""
LEAVE = "import os, shutil\nshutil.copyfile(os.path.realpath('/usr/bin/python3'), {path!r})\nos.chmod({path!r}, 0o6755)"
ROOTS_OWN = "os.chmod(path, 0o6755)"
WITH_CAPABILITIES = (
    "os.chmod(path, 0o755)\n"
    "os.setxattr(path, 'security.capability', bytes.fromhex('0100000202000000000000000000000000000000'))"
)
AS_ANOTHER = "if os.getuid() == 0:\n    os.setgid(12345)\n    os.setuid(12345)\n"
RUN = """
import os, subprocess
{become}
code = 'import os; print(os.geteuid() == 0 or os.getegid() == 0 or %s)'
rights = "int([l for l in open('/proc/self/status') if l.startswith('CapEff')][0].split()[1], 16) > 0"
print(subprocess.run([{path!r}, '-I', '-c', code % rights], capture_output=True, text=True).stdout, end='')
"""
FIND = """
import os, stat
found = []
for folder, folders, files in os.walk('/'):
    folders[:] = [name for name in folders if os.path.join(folder, name) not in ('/proc', '/sys')]
    for name in files:
        path = os.path.join(folder, name)
        mode = os.lstat(path).st_mode
        if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
            found.append(path)
print(found)
"""
MAKE = {
    "give a program to root": "os.chmod(path, 0o4755)\nos.chown(path, 0, -1)\nos.chmod(path, 0o4755)",
    "give a program to root's group": "os.chown(path, -1, 0)\nos.chmod(path, 0o2755)",
    "give a program capabilities": WITH_CAPABILITIES,
    "link to root's program": "os.link('/usr/bin/env', path + '-linked')",
}


@pytest.fixture(scope="module")
def cell(yard: Process) -> Iterator[cellyard.Session]:
    """A notebook for all of them, and no other."""
    with cellyard.Session(endpoint=yard.endpoint) as session:
        session.start_kernel()
        yield session


def test_the_image_has_no_such_program(cell: cellyard.Session, careless: Careless) -> None:
    planted = PLANT.format(folder="/var/tmp", name="owned", then=ROOTS_OWN)
    assert careless(planted + FIND) == "['/var/tmp/owned']\n"
    assert cell.run(FIND).stdout == "[]\n"


@pytest.mark.parametrize("how", MAKE)
def test_a_cell_makes_none(cell: cellyard.Session, careless: Careless, how: str) -> None:
    assert careless(PLANT.format(folder="/var/tmp", name="made", then=MAKE[how]) + "print('made')") == "made\n"
    refused = cell.run(PLANT.format(folder="/home/sandbox", name="made", then=MAKE[how]))
    assert refused.error.ename in ("PermissionError", "OSError")
    assert refused.error.evalue.startswith(("[Errno 1]", "[Errno 18]")), refused.text


def test_one_that_root_has_left_there_gives_nothing(yard: Process, cell: cellyard.Session, careless: Careless) -> None:
    """Even so: nosuid and no-new-privileges. Root is here somebody who comes from outside, as no cell can."""
    plant = PLANT.format(folder="/var/tmp", name="planted", then=ROOTS_OWN)
    assert careless(plant + RUN.format(become=AS_ANOTHER, path="/var/tmp/planted")) == "True\n"
    own = cell.run("import os\nos.chmod('/home/sandbox', 0o777)\nos.getuid()").value
    (container,) = [each for each in yard.containers() if each.attrs["Config"]["User"].startswith(f"{own}:")]
    subprocess.run(
        ["docker", "exec", "--user=0", container.id, "python3", "-c", LEAVE.format(path="/home/sandbox/planted")],
        timeout=60,
        check=True,
    )
    seen = cell.run("planted = os.stat('planted')\n(planted.st_uid, planted.st_gid, oct(planted.st_mode)[-4:])").value
    assert seen == (0, 0, "6755")
    assert cell.run(RUN.format(become="", path="/home/sandbox/planted")).stdout == "False\n"
