"""Packages on their way into a sandbox whose home hostile code has prepared, and goes on changing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cellyard_proto.beneath import Home
from cellyard_proto.flows import cost
from cellyard_proto.v1 import link_pb2 as link
from cellyard_sandbox import environment, files, packages
from cellyard_sandbox.flows import FlowRefused
from cellyard_sandbox.packages import Bringing, Packages, Telling

File = tuple[str, bytes, Sequence[int]]
"""Path, content and owners."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "home"
    root.mkdir()
    return root


@pytest.fixture(params=[False, True], ids=["openat2", "walk"])
def home(root: Path, request: pytest.FixtureRequest) -> Iterator[Home]:
    folder = files.open_folder(str(root))
    yield Home(folder, walk=request.param)
    os.close(folder)


@pytest.fixture
def brought(root: Path, home: Home) -> Packages:
    brought = Packages(home, str(root))
    brought.prepare()
    return brought


def order(names: Sequence[str], content: Sequence[File], version: str = "1.0") -> link.BringPackages:
    listed = [link.BroughtPackage(name=name, version=version) for name in names]
    size = sum(len(body) for _, body, _ in content)
    return link.BringPackages(request_id="r", packages=listed, files=len(content), bytes=size)


def stream(content: Sequence[File]) -> bytes:
    said = b""
    for path, body, owners in content:
        header = link.BroughtFile(path=path, size=len(body), owners=owners).SerializeToString()
        said += len(header).to_bytes(4, "big") + header + body
    return said


def bring(brought: Packages, home: Home, names: Sequence[str], content: Sequence[File], *, step: int = 7) -> None:
    work = Bringing(brought, order(names, content))
    said = stream(content)
    try:
        for at in range(0, len(said), step):
            piece = said[at : at + step]
            assert work.take(piece) == cost(piece)
        assert work.ended is not None
    finally:
        work.close()


def told(messages: Sequence[link.BroughtPackages]) -> list[tuple[str, str]]:
    return [(package.name, package.version) for message in messages for package in message.packages]


def there(root: Path) -> dict[str, bytes]:
    """What lies in the folder of packages, by path; nothing else may lie beside it."""
    assert os.listdir(root / ".cache" / "cellyard") == ["packages"]
    site = root / packages.FOLDER
    return {str(path.relative_to(site)): path.read_bytes() for path in site.rglob("*") if path.is_file()}


def test_containers_look_where_packages_come_in() -> None:
    assert f"/home/sandbox/{packages.FOLDER}" == environment.BROUGHT


@pytest.mark.parametrize("step", [1, 3, 64, 100_000])
def test_it_comes_in_whole_whatever_the_pieces(step: int, brought: Packages, home: Home, root: Path) -> None:
    content: list[File] = [("a/b/c.py", b"x" * 100, [0]), ("empty.py", b"", [1]), ("a/b.txt", b"y", [0, 1])]
    bring(brought, home, ["one", "two"], content, step=step)
    assert there(root) == {"a/b/c.py": b"x" * 100, "empty.py": b"", "a/b.txt": b"y"}
    assert told(brought.told()) == [("one", "1.0"), ("two", "1.0")]
    assert brought.told()[0].packages[0].request_id == "r"


def test_nothing_is_there_before_all_of_it_is(brought: Packages, home: Home, root: Path) -> None:
    content: list[File] = [("a.py", b"x", [0]), ("b.py", b"y", [0])]
    work = Bringing(brought, order(["one"], content))
    work.take(stream(content)[:-1])
    assert os.listdir(root / packages.FOLDER) == []
    with pytest.raises(FlowRefused, match="on their way"):
        Bringing(brought, order(["two"], []))
    work.close()
    assert there(root) == {}
    assert brought.told() == []
    bring(brought, home, ["one"], content)


BAD_PATHS = ["../x", "a/../../x", "/etc/x", "a\0b", "", ".", "x" * 256]


@pytest.mark.parametrize("path", BAD_PATHS)
def test_no_path_leads_out(path: str, brought: Packages, home: Home, root: Path) -> None:
    with pytest.raises(FlowRefused):
        bring(brought, home, ["one"], [("good.py", b"x", [0]), (path, b"x", [0])])
    assert there(root) == {}
    assert os.listdir(root.parent) == ["home"]


@pytest.mark.parametrize(
    "said",
    [
        stream([("a.py", b"xx", [0])]),  # more than was announced
        stream([("a.py", b"x", [1])]),  # nobody's
        stream([("a.py", b"x", [])]),
        stream([("a.py", b"", [0]), ("a.py", b"", [0])]),  # twice
        b"\xff\xff\xff\xff",
        b"\0\0\0\1\xff",
        b"\0\0\0\0",
    ],
)
def test_what_is_no_file_of_these_packages_is_refused(said: bytes, brought: Packages, home: Home, root: Path) -> None:
    work = Bringing(brought, link.BringPackages(packages=[link.BroughtPackage(name="one")], files=3, bytes=1))
    with pytest.raises(FlowRefused):
        work.take(said)
    work.close()
    assert there(root) == {}


def test_what_follows_the_last_file_is_refused(brought: Packages, home: Home) -> None:
    content: list[File] = [("a.py", b"x", [0])]
    work = Bringing(brought, order(["one"], content))
    with pytest.raises(FlowRefused, match="more content"):
        work.take(stream(content) + b"x")
    work.close()


@pytest.mark.parametrize("bad", ["files", "bytes", "twice", "too many"])
def test_what_cannot_be_is_refused_at_once(bad: str, brought: Packages, home: Home, root: Path) -> None:
    wanted = order(["one"], [])
    if bad == "files":
        wanted.files = packages.MAX_FILES + 1
    elif bad == "bytes":
        wanted.bytes = 1 << 60
    elif bad == "twice":
        wanted = order(["one", "one"], [])
    else:
        wanted = order([f"p{number}" for number in range(packages.MAX_PACKAGES + 1)], [])
    with pytest.raises(FlowRefused):
        Bringing(brought, wanted)
    assert there(root) == {}
    bring(brought, home, ["one"], [])


@pytest.mark.parametrize("place", [".cache", ".cache/cellyard", ".cache/cellyard/packages"])
def test_a_link_in_its_way_is_not_followed(place: str, brought: Packages, home: Home, root: Path) -> None:
    outside = root.parent / "outside"
    outside.mkdir()
    shutil.rmtree(root / place)
    (root / place).symlink_to(outside)
    with pytest.raises(FlowRefused, match="cannot be put into the sandbox"):
        bring(brought, home, ["one"], [("a.py", b"x", [0])])
    assert os.listdir(outside) == []


def test_what_stands_in_the_way_undoes_all_of_it(brought: Packages, home: Home, root: Path) -> None:
    site = root / packages.FOLDER
    (site / "zz").write_text("mine")
    (site / "shared").mkdir()
    with pytest.raises(FlowRefused, match="'zz' stands in the way"):
        bring(brought, home, ["one"], [("a.py", b"x", [0]), ("shared/b.py", b"x", [0]), ("zz/c.py", b"x", [0])])
    assert there(root) == {"zz": b"mine"}
    assert brought.told() == []


def test_removing_follows_no_link(brought: Packages, home: Home, root: Path) -> None:
    (root / "kept").mkdir()
    (root / "kept" / "a.py").write_text("mine")
    bring(brought, home, ["one"], [("pkg/a.py", b"x", [0])])
    shutil.rmtree(root / packages.FOLDER / "pkg")
    (root / packages.FOLDER / "pkg").symlink_to(root / "kept")
    assert told(brought.remove(["one"])) == [("one", "1.0")]
    assert (root / "kept" / "a.py").read_text() == "mine"


def test_bytecode_that_a_kernel_has_made_goes_too(brought: Packages, home: Home, root: Path) -> None:
    bring(brought, home, ["one"], [("pkg/a.py", b"x", [0])])
    cache = root / packages.FOLDER / "pkg" / "__pycache__"
    cache.mkdir()
    (cache / "a.cpython-311.pyc").write_bytes(b"x")
    brought.remove(["one"])
    assert there(root) == {}
    assert os.listdir(root / packages.FOLDER) == []


def test_a_running_python_sees_at_once_what_comes(brought: Packages, home: Home, root: Path) -> None:
    """And a program that it starts; last of all, whatever is put in the standard library's way."""
    program = (
        "import sys\n"
        "for line in sys.stdin:\n"
        "    try:\n"
        "        found = __import__(line.strip())\n"
        "        print(getattr(found, 'WORD', 'another'), flush=True)\n"
        "    except ImportError:\n"
        "        print('absent', flush=True)\n"
    )
    start = brought.start_folder()
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": start},
    )

    def says(module: str) -> str:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{module}\n")
        process.stdin.flush()
        return process.stdout.readline().strip()

    try:
        for number in range(20):
            assert says(f"brought_{number}") == "absent"
            bring(brought, home, [f"p{number}"], [(f"brought_{number}.py", b"WORD = 'here'\n", [0])])
            assert says(f"brought_{number}") == "here"
        bring(brought, home, ["shadow"], [("colorsys.py", b"WORD = 'shadow'\n", [0])])
        assert says("colorsys") == "another"
    finally:
        process.kill()
        process.communicate()


def test_what_is_known_at_once_is_told_in_pieces(brought: Packages, home: Home) -> None:
    names = [f"p{number:03}" for number in range(250)]
    bring(brought, home, names, [])
    work = Telling(brought.told())
    found: list[tuple[str, str]] = []
    assert work.give(10) is None
    while (frame := work.give(64 * 1024)) is not None:
        found += told([link.BroughtPackages.FromString(frame.content)])
    assert [name for name, _ in found] == names
    assert work.ended is not None
    assert Telling([]).ended is not None


NAMES = st.sampled_from(["one", "two", "three", "four"])
PATHS = st.sampled_from(["a.py", "b.py", "pkg/a.py", "pkg/deep/b.py", "pkg/deep/c.txt"])


class Sequences(RuleBasedStateMachine):
    """Packages come and go in any order, and code in the sandbox removes files: what is there is what must be."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.folder = files.open_folder(str(self.root))
        self.home = Home(self.folder)
        self.packages = Packages(self.home, str(self.root))
        self.packages.prepare()
        self.owners: dict[str, set[str]] = {}
        self.content: dict[str, bytes] = {}
        self.names: set[str] = set()
        self.made = 0

    def teardown(self) -> None:
        os.close(self.folder)
        shutil.rmtree(self.root)

    @rule(names=st.sets(NAMES, min_size=1), paths=st.sets(PATHS), step=st.integers(1, 200))
    def come(self, names: set[str], paths: set[str], step: int) -> None:
        listed = sorted(names)
        self.made += 1
        content: list[File] = [(path, b"%d" % self.made, [at % len(listed)]) for at, path in enumerate(sorted(paths))]
        bring(self.packages, self.home, listed, content, step=step)
        self._forget(names)
        for path, body, owners in content:
            self.owners.setdefault(path, set()).update(listed[at] for at in owners)
            self.content.setdefault(path, body)  # what is there already, stays
        self.names |= names

    @rule(names=st.sets(NAMES, min_size=1), paths=st.sets(PATHS, min_size=1))
    def are_given_up(self, names: set[str], paths: set[str]) -> None:
        content: list[File] = [(path, b"never", [0]) for path in sorted(paths)]
        work = Bringing(self.packages, order(sorted(names), content))
        work.take(stream(content)[:-1])
        work.close()

    @rule(names=st.sets(NAMES, min_size=1))
    def go(self, names: set[str]) -> None:
        gone = [name for name, _ in told(self.packages.remove(names))]
        assert gone == sorted(names & self.names)
        self._forget(names)

    @rule(path=PATHS)
    def code_removes(self, path: str) -> None:
        (self.root / packages.FOLDER / path).unlink(missing_ok=True)
        self.content.pop(path, None)

    def _forget(self, names: set[str]) -> None:
        self.names -= names
        for path in list(self.owners):
            self.owners[path] -= names
            if not self.owners[path]:
                del self.owners[path]
                self.content.pop(path, None)

    @invariant()
    def what_is_there_is_what_must_be(self) -> None:
        assert there(self.root) == self.content
        assert [name for name, _ in told(self.packages.told())] == sorted(self.names)


TestSequences = Sequences.TestCase
TestSequences.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
