"""The program that finishes environments, inside a container of the image that they are for: `-I -S -c` this.

It tells over the link's socket, line by line, JSON each; a line with `size` is followed by so many bytes. Its argument,
JSON, says what to do: `tell` what the interpreter is, or `finish` the environment that is mounted: see whether a kernel
starts with it, and compile its modules, which only this interpreter can; one of conda's is finished by its own. The
standard library is all there is.
"""

import importlib.util
import json
import os
import platform
import py_compile
import shutil
import socket
import subprocess
import sys
import tomllib

LINK = "/run/cellyard/agent.sock"
BACKEND = """
import importlib, json, os, sys
order = json.loads(sys.argv[1])
sys.argv[1:] = []
sys.path[:0] = [os.path.abspath(each) for each in order["path"]]
module, _, names = order["backend"].partition(":")
backend = importlib.import_module(module)
for name in filter(None, names.split(".")):
    backend = getattr(backend, name)
backend.build_wheel(order["into"])
"""
CHECK = "import sys; sys.path.append('/opt/cellyard'); import IPython, cellyard_sandbox.python_kernel.kernel"


def main() -> None:
    """Does what it is asked."""
    order = json.loads(sys.argv[1])
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(LINK)
        if order["do"] == "tell":
            say(link, interpreter())
        elif order["do"] == "needs":
            say(link, needs(order["archive"]))
        elif order["do"] == "build":
            build(link, order["archive"])
        else:
            finish(link, order["environment"])


def say(link: socket.socket, what: "dict[str, object]", content: bytes = b"") -> None:
    """One line, and what belongs to it."""
    link.sendall(json.dumps(what).encode() + b"\n" + content)


def interpreter() -> "dict[str, object]":
    """What it is, in the words of PEP 508."""
    about = sys.implementation
    version = ".".join(map(str, about.version[:3]))
    libc, number = platform.libc_ver()
    major, _, minor = number.partition(".")
    return {
        "markers": {
            "implementation_name": about.name,
            "implementation_version": version,
            "os_name": os.name,
            "platform_machine": platform.machine(),
            "platform_python_implementation": platform.python_implementation(),
            "platform_release": "",
            "platform_system": platform.system(),
            "platform_version": "",
            "python_full_version": platform.python_version(),
            "python_version": ".".join(platform.python_version_tuple()[:2]),
            "sys_platform": sys.platform,
        },
        "libc": [libc, int(major or 0), int(minor or 0)],
    }


def finish(link: socket.socket, environment: str) -> None:
    """Whether a kernel's modules can be imported; where they can, bytecode as it comes."""
    done = subprocess.run([sys.executable, "-P", "-c", CHECK], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        say(link, {"done": True, "error": (lines or ["it ended at once"])[-1][:500]})
        return
    scratch = f"/tmp/{os.getpid()}.pyc"
    for folder, _, names in os.walk(environment):
        for name in sorted(names):
            path = os.path.join(folder, name)
            if not name.endswith(".py") or os.path.islink(path):
                continue
            try:
                py_compile.compile(
                    path, scratch, doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
                )
            except (py_compile.PyCompileError, ValueError, RecursionError, MemoryError, OSError):
                continue  # templates, and code for other versions: nobody can import those
            with open(scratch, "rb") as file:
                content = file.read()
            target = os.path.relpath(importlib.util.cache_from_source(path), environment)
            say(link, {"file": target, "size": len(content)}, content)
    say(link, {"done": True, "error": ""})


def sources(archive: str) -> "tuple[str, dict[str, object]]":
    """Where they are unpacked, and what they say of their build (PEP 517, 518)."""
    home = os.environ["HOME"]
    shutil.unpack_archive(archive, home)
    folder = next(entry.path for entry in os.scandir(home) if entry.is_dir() and not entry.name.startswith("."))
    try:
        with open(os.path.join(folder, "pyproject.toml"), "rb") as file:
            table = tomllib.load(file).get("build-system", {})
    except FileNotFoundError:
        table = {}
    usual = {"requires": ["setuptools>=40.8"], "build-backend": "setuptools.build_meta:__legacy__", "backend-path": []}
    return folder, {**usual, **table}


def needs(archive: str) -> "dict[str, object]":
    """What has to be there before they can be built."""
    try:
        return {"requires": sources(archive)[1]["requires"]}
    except (OSError, ValueError, StopIteration, shutil.ReadError, EOFError) as bad:
        return {"error": f"{type(bad).__name__}: {bad}"[:500]}


def build(link: socket.socket, archive: str) -> None:
    """A wheel, or the end of what the build said."""
    folder, about = sources(archive)
    built = os.path.join(os.environ["HOME"], ".built")
    os.mkdir(built)
    order = json.dumps({"backend": about["build-backend"], "path": about["backend-path"], "into": built})
    done = subprocess.run(
        [sys.executable, "-P", "-c", BACKEND, order],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    wheels = [entry for entry in os.scandir(built) if entry.name.endswith(".whl") and entry.is_file()]
    if done.returncode or len(wheels) != 1:
        say(link, {"error": done.stdout[-8000:]})
        return
    with open(wheels[0].path, "rb") as file:
        content = file.read()
    say(link, {"file": wheels[0].name, "size": len(content)}, content)


main()
