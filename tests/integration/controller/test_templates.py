"""Templates: who may name which, and which Python a kernel gets."""

from __future__ import annotations

import platform
import uuid
from typing import Any

import grpc
import pytest

from cellyard_proto.v1 import kernels_pb2 as ker
from cellyard_proto.v1 import sandboxes_pb2 as sb
from cellyard_proto.v1 import tenants_pb2 as te

from .conftest import Outliving, Stubs, Yard

OWN = ".".join(platform.python_version_tuple()[:2])
"""What the fake runtime's image has: the interpreter of this machine."""
TEMPLATES = {
    "ours": {"tenants": ("alice",), "memory": 1 << 28},
    "science": {"image": "science:1", "python": {"3.99": "science:other"}},
}


async def start(stubs: Stubs, notebook: str, metadata: Any = None, **settings: Any) -> ker.Kernel:
    request = ker.StartKernel(
        notebook_id=notebook, request_id=f"start-{uuid.uuid4()}", settings=ker.KernelSettings(**settings)
    )
    kernel = None
    async for event in stubs.kernels.Start(request, metadata=metadata):
        if event.HasField("kernel"):
            kernel = event.kernel
    assert kernel is not None
    return kernel


async def test_a_template_for_some_is_unknown_to_others(yard: Yard, runtime: Outliving) -> None:
    stubs = await yard.start(templates=TEMPLATES)
    tokens = {}
    for name in ("alice", "bob"):
        created = await stubs.tenants.Create(te.CreateTenant(name=name))
        tokens[name] = (("authorization", f"Bearer {created.token}"),)
    kernel = await start(stubs, "nb", tokens["alice"], template="ours")
    assert kernel.template == "ours"
    assert runtime.specs[-1].template.memory_bytes == 1 << 28
    for name in ("ours", "ours@3.11"):
        with pytest.raises(grpc.aio.AioRpcError, match=rf"unknown template '{name}': default, science\""):
            await start(stubs, "nb", tokens["bob"], template=name)
    with pytest.raises(grpc.aio.AioRpcError, match="unknown template 'ours': default, science\""):
        await stubs.sandboxes.GetCapabilities(sb.GetCapabilitiesRequest(template="ours"), metadata=tokens["bob"])
    assert (await start(stubs, "operators", template="ours")).template == "ours"


@pytest.mark.parametrize("template", ["no-such", "no-such@3.11", "@3.11x"])
async def test_an_unknown_template_is_told_with_those_that_there_are(yard: Yard, template: str) -> None:
    stubs = await yard.start(templates=TEMPLATES)
    with pytest.raises(grpc.aio.AioRpcError, match=r"default, ours, science"):
        await start(stubs, "nb", template=template)


async def test_the_python_of_a_templates_image_may_be_asked_for_by_name(yard: Yard, runtime: Outliving) -> None:
    stubs = await yard.start(templates=TEMPLATES)
    kernel = await start(stubs, "nb", template=f"science@{OWN}")
    assert kernel.template == f"science@{OWN}"
    assert runtime.specs[-1].template.image == "science:1"
    assert (await start(stubs, "nb", template=f"science@{OWN}")).sandbox_id == kernel.sandbox_id
    with pytest.raises(grpc.aio.AioRpcError, match=rf"has the template 'science@{OWN}', not 'science@3.99'"):
        await start(stubs, "nb", template="science@3.99")
    assert (await start(stubs, "nb", template="science")).sandbox_id == kernel.sandbox_id


async def test_an_image_that_has_not_the_python_that_is_promised_is_refused(yard: Yard, runtime: Outliving) -> None:
    stubs = await yard.start(templates=TEMPLATES)
    with pytest.raises(grpc.aio.AioRpcError, match=rf"Python 3.99 cannot be had: the template 'science' has {OWN}\."):
        await start(stubs, "nb", template="science@3.99")
    assert runtime.specs == []


async def test_the_usual_python_is_the_templates_own(yard: Yard) -> None:
    stubs = await yard.start()
    assert (await start(stubs, "nb", template="default@3.11")).template == "default"
    assert (await start(stubs, "nb", template="default")).template == "default"
    with pytest.raises(grpc.aio.AioRpcError, match=r"not 'default@3\.13'"):
        await start(stubs, "nb", template="default@3.13")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"template": "default@3.9"}, "Python 3.9 cannot be had: the template 'default' has 3.11, 3.13"),
        ({"template": "default@3"}, "a Python version is like 3.11"),
        ({"template": "default@3.13", "kernel_type": "deno"}, "goes with Python kernels"),
    ],
)
async def test_a_python_that_cannot_be_had_is_refused_before_anything_starts(
    yard: Yard, runtime: Outliving, settings: dict[str, str], says: str
) -> None:
    stubs = await yard.start()
    with pytest.raises(grpc.aio.AioRpcError, match=says):
        await start(stubs, "nb", **settings)
    assert runtime.specs == []
