"""Packages for running kernels, from the request to the agent: on fake sandboxes, with the real fetcher."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from tests.package_index import PackageIndex, wheel

from cellyard_controller.runtimes.fake.flows import Packages
from cellyard_controller.sandboxes.lifecycle import EndReason
from cellyard_proto.v1 import kernels_pb2 as ker
from cellyard_proto.v1 import tenants_pb2 as te

from .conftest import Outliving, Stubs, Yard
from .test_access import Tcp, reason


@pytest.fixture
def index() -> Iterator[PackageIndex]:
    index = PackageIndex()
    index.add("tiny", "1.0", requires=["needed>=1", "held"])
    index.add("needed", "1.5")
    index.add("held", "9.0")
    index.add("extended", "1.0")
    yield index
    index.close()


@pytest.fixture
async def stubs(yard: Yard, index: PackageIndex) -> Stubs:
    yard.config["environments"] = {"index": index.url}
    yard.runtime = Outliving()
    return await yard.start(on_stop="keep")


def packages(yard: Yard, notebook: str = "nb") -> Packages:
    """What the notebook's sandbox has."""
    [sandbox] = [
        each
        for each in yard.controller.supervisor.sandboxes()
        if each.notebook is not None and each.notebook.notebook_id == notebook
    ]
    return yard.runtime.packages(sandbox.instance_id)


async def start(stubs: Stubs, notebook: str = "nb", **more: Any) -> None:
    settings = ker.KernelSettings(**more)
    request = ker.StartKernel(notebook_id=notebook, request_id=f"start-{notebook}", session_id="s", settings=settings)
    async for _ in stubs.kernels.Start(request):
        pass


async def install(stubs: Stubs, *requirements: str, request: str, notebook: str = "nb", **call: Any) -> ker.Installed:
    message = ker.InstallRequest(notebook_id=notebook, request_id=request, requirements=requirements)
    events = [event async for event in stubs.kernels.Install(message, **call)]
    assert {event.progress.stage for event in events[:-1]} <= {"environment"}
    return events[-1].installed


def told(listed: Any) -> list[tuple[str, str]]:
    return [(each.name, each.version) for each in listed]


async def refused(call: Any) -> tuple[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    return reason(failed.value), failed.value.details() or ""


async def test_it_comes_beside_what_the_kernel_has(stubs: Stubs, yard: Yard, index: PackageIndex) -> None:
    await start(stubs)
    packages(yard).present["held"] = "1.0"
    done = await install(stubs, "tiny", request="one")
    assert told(done.packages) == [("needed", "1.5"), ("tiny", "1.0")]
    assert set(packages(yard).files) >= {"tiny.py", "needed.py", "tiny-1.0.dist-info/METADATA"}
    assert not any("held" in path for path in packages(yard).files)
    assert index.fetched("held-9.0-py3-none-any.whl") == 0
    listed = await stubs.kernels.ListInstalled(ker.ListInstalledRequest(notebook_id="nb"))
    assert told(listed.packages) == [("needed", "1.5"), ("tiny", "1.0")]


async def test_a_repeated_request_gets_the_same_answer_and_does_nothing(
    stubs: Stubs, yard: Yard, index: PackageIndex
) -> None:
    await start(stubs)
    first = await install(stubs, "tiny", request="one")
    asked = len(index.asked)
    assert await install(stubs, "tiny", request="one") == first
    assert len(index.asked) == asked
    other = await install(stubs, "tiny", request="two")
    assert (list(other.packages), list(other.already_present)) == ([], ["tiny"])
    assert (await refused(install(stubs, "needed", request="one")))[0] == "INVALID_REQUEST"
    message = ker.UninstallRequest(notebook_id="nb", request_id="three", names=["tiny", "held", "tiny"])
    gone = await stubs.kernels.Uninstall(message)
    assert (told(gone.removed), list(gone.not_found)) == ([("held", "9.0"), ("tiny", "1.0")], [])
    assert await stubs.kernels.Uninstall(message) == gone


async def test_after_the_controllers_end_it_is_known_and_repeated(stubs: Stubs, yard: Yard) -> None:
    await start(stubs)
    await install(stubs, "tiny", request="one")
    await yard.stop()
    again = await yard.start()
    listed = None
    while listed is None:
        try:
            listed = await again.kernels.ListInstalled(ker.ListInstalledRequest(notebook_id="nb"))
        except grpc.aio.AioRpcError as failed:  # until its agent is back
            if failed.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
    assert told(listed.packages) == [("held", "9.0"), ("needed", "1.5"), ("tiny", "1.0")]
    assert told((await install(again, "tiny", request="one")).packages) == told(listed.packages)


async def test_those_who_ask_at_once_have_all_of_it(stubs: Stubs, yard: Yard) -> None:
    await start(stubs)
    done = await asyncio.gather(*(install(stubs, "tiny", "extended", request=f"r{number}") for number in range(4)))
    assert sorted(len(each.packages) for each in done) == [0, 0, 0, 4]
    assert sorted(packages(yard).brought) == ["extended", "held", "needed", "tiny"]


async def test_who_breaks_off_leaves_nothing_and_holds_nobody_up(stubs: Stubs, yard: Yard, index: PackageIndex) -> None:
    await start(stubs)
    index.open.clear()
    index.reached.clear()
    broken_off = asyncio.create_task(install(stubs, "tiny", request="one"))
    assert await asyncio.to_thread(index.reached.wait, 60)
    broken_off.cancel()
    await asyncio.wait({broken_off})
    index.open.set()
    assert told((await install(stubs, "needed", request="two")).packages) == [("needed", "1.5")]
    assert sorted(packages(yard).brought) == ["needed"]


async def test_a_kernel_that_ends_meanwhile_is_told(stubs: Stubs, yard: Yard, index: PackageIndex) -> None:
    await start(stubs)
    [sandbox] = yard.controller.supervisor.sandboxes()
    index.open.clear()
    index.reached.clear()
    waiting = asyncio.create_task(refused(install(stubs, "tiny", request="one")))
    assert await asyncio.to_thread(index.reached.wait, 60)
    await stubs.kernels.Shutdown(ker.ShutdownKernel(notebook_id="nb", request_id="end"))
    await yard.controller.supervisor.release(sandbox.sandbox_id, EndReason.SHUTDOWN)
    index.open.set()
    assert (await waiting)[0] == "KERNEL_DIED"


async def test_without_a_kernel_there_is_nothing_to_install_into(stubs: Stubs) -> None:
    assert (await refused(install(stubs, "tiny", request="one")))[0] == "NOTEBOOK_NOT_FOUND"
    await start(stubs)
    await stubs.kernels.Shutdown(ker.ShutdownKernel(notebook_id="nb", request_id="end"))
    said = await refused(install(stubs, "tiny", request="one"))
    assert said == ("NO_KERNEL", "no kernel runs for notebook 'nb', and so it has no packages of its own")


async def test_what_was_not_proven_is_refused(yard: Yard, index: PackageIndex) -> None:
    yard.runtime.granted = ("timeout",)
    stubs = await yard.start(environments={"index": index.url})
    await start(stubs)
    assert (await refused(install(stubs, "tiny", request="one")))[0] == "CAPABILITY_UNAVAILABLE"


HOSTILE = {
    "no archive": b"no archive",
    "another's files": wheel("evil", "1.0", {"tiny.py": "VERSION = 'mine'\n", "evil.py": ""}),
    "names that climb": wheel("evil", "1.0", {"../evil.py": "", "/tmp/evil.py": "", "evil.py": ""}),
    "a RECORD of nothing": wheel("evil", "1.0", {"evil.py": ""}, record={}),
    "a RECORD of others' files": wheel("evil", "1.0", {"evil.py": ""}, record={"tiny.py": "", "../../etc/passwd": ""}),
}


@pytest.mark.parametrize("what", HOSTILE)
async def test_a_hostile_wheel_takes_nothing_from_others(
    what: str, stubs: Stubs, yard: Yard, index: PackageIndex
) -> None:
    index.add_file("evil", "evil-1.0-py3-none-any.whl", HOSTILE[what])
    await start(stubs)
    await install(stubs, "tiny", request="one")
    before = dict(packages(yard).files)
    if what == "no archive":
        assert (await refused(install(stubs, "evil", request="two")))[0] == "ENVIRONMENT_FAILED"
        assert packages(yard).files == before
        return
    assert told((await install(stubs, "evil", request="two")).packages) == [("evil", "1.0")]
    after = packages(yard).files
    assert before.items() <= after.items()
    came = {path for path in after if path not in before and not path.startswith("evil-1.0.dist-info/")}
    assert came == {"evil.py", "__pycache__/evil.cpython-311.pyc"}


@pytest.mark.parametrize("names", [[], ["tiny>1"], ["../tiny"], ["tiny", ""], ["x" * 300 + "!"], ["-r"]])
async def test_only_names_can_be_removed(stubs: Stubs, names: list[str]) -> None:
    await start(stubs)
    message = ker.UninstallRequest(notebook_id="nb", request_id="one", names=names)
    assert (await refused(stubs.kernels.Uninstall(message)))[0] == "INVALID_REQUEST"


async def test_tenants_neither_see_nor_share_what_others_install(yard: Yard, index: PackageIndex) -> None:
    yard.config["environments"] = {"index": index.url}
    tcp = Tcp(await yard.start(listen=(f"unix:{yard.folder}/c.sock", "127.0.0.1:0")), yard.controller.addresses[1])
    try:
        await start(tcp.operator)
        await install(tcp.operator, "tiny", request="one")
        theirs, metadata = await tcp.tenant("theirs")
        for call in (
            install(theirs, "tiny", request="one", metadata=metadata),
            theirs.kernels.Uninstall(
                ker.UninstallRequest(notebook_id="nb", request_id="r", names=["tiny"]), metadata=metadata
            ),
            theirs.kernels.ListInstalled(ker.ListInstalledRequest(notebook_id="nb"), metadata=metadata),
        ):
            assert (await refused(call))[0] == "NOTEBOOK_NOT_FOUND"
        assert sorted(packages(yard).brought) == ["held", "needed", "tiny"]
        grant = te.TokenGrant(scope="read")
        token = await tcp.operator.tenants.IssueToken(te.IssueTokenRequest(tenant="theirs", grant=grant))
        reading = (("authorization", f"Bearer {token.token}"),)
        assert (await refused(install(theirs, "tiny", request="two", metadata=reading)))[0] == "PERMISSION_DENIED"
    finally:
        for channel in tcp.channels:
            await channel.close()
