"""Solves, downloads and links conda packages, in a process of few rights: its argument is the file of its order.

The order, JSON: `modules` (a folder with rattler in it), `channels` (URLs), `specs`, `subdir`, `glibc`, `prefix` (where
the environment will stand), `certificates` (whether the system's are meant). What became of it is written to
`result.json`. No code of any package is run: scripts for the time after linking are not, and modules are not compiled.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import sys
import traceback
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rattler import GenericVirtualPackage, RepoDataRecord

SITE, CACHE, RESULT = Path("site"), Path("cache"), Path("result.json")
CAUSE = "Caused by: "
LINUX = "5.10"
"""What packages may ask of the system's kernel: the oldest that this is meant for."""
MACHINES = {"linux-64": "x86_64", "linux-aarch64": "aarch64"}


class Refused(Exception):
    """It cannot be had. `about`: `channel` or `package`; `package`: which one, where that is known."""

    def __init__(self, about: str, why: str, package: str = "") -> None:
        super().__init__(why)
        self.about, self.package = about, package


def main() -> None:
    """Leaves the environment in `site`."""
    order = json.loads(Path(sys.argv[1]).read_text())
    sys.path.insert(0, order["modules"])
    try:
        result = asyncio.run(fetch(order))
    except Refused as refused:
        result = {"failed": refused.about, "package": refused.package}
        lines = list(dict.fromkeys(str(refused).strip().splitlines()))
        print("\n".join(lines))
        # A tree of reasons says most as a whole, and a chain of causes by its ends.
        chain = len(lines) > 1 and lines[1].startswith(CAUSE)
        short = f"{lines[0]}: {lines[-1].removeprefix(CAUSE)}" if chain else " ".join(lines)
        print(f"error: {short}", flush=True)
    except BaseException:  # a panic of rattler's among them; what has been said of it is what there is
        traceback.print_exc()
        result = {"failed": "package", "package": ""}
    RESULT.write_text(json.dumps(result))
    os._exit("failed" in result)  # rattler's threads may still be about, and would fall over the interpreter's end


async def fetch(order: dict[str, Any]) -> dict[str, Any]:
    """What was installed."""
    from rattler import Client, Config, Gateway, SourceConfig, Subdir, install, solve
    from rattler.exceptions import GatewayError, InstallerError, InvalidMatchSpecError, SolverError

    settings = 'tls-root-certs = "system"' if order["certificates"] else ""
    client = Client.from_config(Config.from_toml(settings), timeout=60)
    gateway = Gateway(cache_dir=CACHE / "index", client=client, default_config=SourceConfig(cache_action="no-cache"))
    try:
        records = await solve(
            order["channels"],
            order["specs"],
            gateway=gateway,
            platforms=[order["subdir"], "noarch"],
            virtual_packages=virtual_packages(order["subdir"], order["glibc"]),
            timeout=datetime.timedelta(seconds=order["timeout"]),
            channel_relations="disabled",  # a channel does not choose others
        )
    except GatewayError as failed:
        raise Refused("channel", str(failed)) from None
    except (SolverError, InvalidMatchSpecError) as failed:
        raise Refused("package", str(failed)) from None
    for record in records:
        check_record(record, order["channels"])
    try:
        await install(
            records,
            SITE,
            cache_dir=CACHE / "packages",
            installed_packages=[],
            platform=Subdir(order["subdir"]),
            execute_link_scripts=False,
            show_progress=False,
            client=client,
            alternative_target_prefix=order["prefix"],
        )
    except InstallerError as failed:
        why = str(failed).replace(os.getcwd(), ".")
        names = [record.name.normalized for record in records if record.file_name in why]
        raise Refused("package", why, names[0] if names else "") from None
    for folder in (CACHE / "packages").iterdir():
        if (folder / "info").is_dir():  # beside them are locks, and archives
            check_package(folder)
    return {"packages": sorted(f"{record.name.normalized}=={record.version}" for record in records)}


def virtual_packages(subdir: str, glibc: str) -> list[GenericVirtualPackage]:
    """What the image is, to packages that ask for it."""
    from rattler import BuildString, GenericVirtualPackage, PackageName, Version

    about = {"unix": ("0", "0"), "linux": (LINUX, "0"), "glibc": (glibc, "0"), "archspec": ("1", MACHINES[subdir])}
    return [
        GenericVirtualPackage(PackageName(f"__{name}"), Version(version), BuildString(build))
        for name, (version, build) in about.items()
    ]


def check_record(record: RepoDataRecord, channels: list[str]) -> None:
    """It comes from where it should, and can be told from anything else."""
    name, url = record.name.normalized, str(record.url)
    beneath = any(url.startswith(channel.rstrip("/") + "/") for channel in channels)
    if not beneath and not url.startswith(("https://", "http://")):
        raise Refused("package", "the channel names a place for it that is none of the web's", name)
    if record.sha256 is None and record.md5 is None:
        raise Refused("package", "the channel's index has no digest for it", name)


def check_package(folder: Path) -> None:
    """What it lists lies in it: neither beside it, nor behind a link, through which it could take in this machine's."""
    try:
        paths = [each["_path"] for each in json.loads((folder / "info" / "paths.json").read_text())["paths"]]
    except FileNotFoundError:
        listed = folder / "info" / "files"
        paths = listed.read_text().splitlines() if listed.is_file() else []
    for name in paths:
        parts = PurePosixPath(name).parts
        around = [folder.joinpath(*parts[:end]) for end in range(1, len(parts))]
        if name.startswith("/") or ".." in parts or any(each.is_symlink() for each in around):
            package = folder.name.rsplit("-", 2)[0]
            raise Refused("package", f"it lists a file that is not in it: {name[:200]!r}", package)


if __name__ == "__main__":
    main()
