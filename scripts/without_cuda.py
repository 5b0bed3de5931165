"""Lets a torch that was built for CUDA be imported where CUDA's libraries are not installed, for use of the CPU alone.

Its own libraries name CUDA's, gigabytes of them, which the loader wants to see even though nothing of them is called
without a GPU. This puts libraries in their places that have the functions' names and end the process if one is called.
Nothing is done where all of them are there, as with a torch for the CPU. Needs cc, nm and readelf.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

LOADED = ("libtorch.so", "libtorch_cpu.so", "libtorch_cuda.so", "libtorch_nvshmem.so", "libtorch_python.so")
"""Those of torch's libraries that its import loads."""
CUDA = re.compile(r"lib(cu|nv|nccl)")


def main(site: Path) -> None:
    """`site`: the folder of packages that torch is in."""
    folder = site / "torch" / "lib"
    own = [folder / name for name in (*LOADED, "libc10_cuda.so") if (folder / name).exists()]
    there = {path.name for path in site.rglob("*.so*")}
    wanted = {name for library in own for name in needed(library) if CUDA.match(name)}
    functions, unversioned = undefined(own)
    for name in sorted(wanted - there):
        # Where a library has no versions, a function belongs to the one that its name begins like.
        start = name[3:].partition(".")[0].lower()
        plain = [function for function in unversioned if function.lower().startswith(start)]
        build(folder / name, {version: found for version, found in functions.items() if fits(version, name)}, plain)
        print(f"torch goes without {name}")


def needed(library: Path) -> list[str]:
    """The libraries that one names."""
    return re.findall(r"\(NEEDED\).*\[(.*)\]", output("readelf", "-d", str(library)))


def undefined(libraries: Iterable[Path]) -> tuple[dict[str, set[str]], set[str]]:
    """The functions that libraries take from others: by version, and those without one."""
    versioned: dict[str, set[str]] = defaultdict(set)
    unversioned: set[str] = set()
    for library in libraries:
        for line in output("nm", "-D", "--undefined-only", str(library)).splitlines():
            name, _, version = line.split()[-1].partition("@")
            if version:
                versioned[version.lstrip("@")].add(name)
            elif re.match(r"(cu|nv|nccl)", name):
                unversioned.add(name)
    return versioned, unversioned


def fits(version: str, library: str) -> bool:
    """Whether a version is one of this library's: they are called as it is, NVSHMEM's as the library begins."""
    return version == library or (version == "NVSHMEM" and library.startswith("libnvshmem"))


def build(library: Path, versions: dict[str, set[str]], plain: list[str]) -> None:
    """Writes a library with these functions."""
    with tempfile.TemporaryDirectory() as folder:
        source, script = Path(folder, "functions.c"), Path(folder, "versions.map")
        names = sorted({*plain, *(name for found in versions.values() for name in found)})
        source.write_text("".join(f"void {name}(void) {{ __builtin_trap(); }}\n" for name in names))
        said = [f"{version} {{ global: {'; '.join(sorted(found))}; }};\n" for version, found in versions.items()]
        script.write_text("".join(said))
        options = [f"-Wl,--version-script={script}"] if versions else []
        output("cc", "-w", "-shared", "-fPIC", "-o", str(library), str(source), f"-Wl,-soname,{library.name}", *options)


def output(*command: str) -> str:
    """What a program prints."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main(Path(sys.argv[1]))
