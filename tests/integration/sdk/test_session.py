"""What a session does, in both flavours, against a controller over real gRPC."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from tests.integration.sdk import flavours
from tests.integration.sdk.faultline import Faultline
from tests.integration.sdk.scripted_controller import Refusal, ScriptedController

import cellyard
from cellyard_proto.v1 import kernels_pb2


class TestConnection:
    async def test_building_a_session_does_nothing(self, session: Any, controller: ScriptedController) -> None:
        assert not await session.is_connected()
        assert not await session.kernel_started()
        assert await session.env_source() is None
        assert controller.calls == []

    def test_automatic_ids_are_unique(self, flavour: str) -> None:
        ids = {flavours.session(flavour).notebook_id for _ in range(100)}
        assert len(ids) == 100
        assert all(re.fullmatch(r"agent-session-[0-9a-f-]{36}", name) for name in ids)

    async def test_connecting_twice_is_one_connection(
        self, session: Any, controller: ScriptedController, line: Faultline
    ) -> None:
        await session.connect()
        await session.connect()
        assert line.connections == 1
        assert await session.is_connected()
        assert len(controller.called("Sessions.Attach")) == 1
        assert not await session.kernel_started()

    async def test_the_first_call_tells_versions(self, session: Any, controller: ScriptedController) -> None:
        await session.connect()
        name, hello = controller.calls[0]
        assert name == "Sessions.Hello"
        assert (hello.client, hello.protocol, hello.client_version) == ("cellyard-python", 1, cellyard.__version__)

    async def test_another_protocol_is_refused_with_a_sentence(
        self, session: Any, controller: ScriptedController
    ) -> None:
        controller.protocol = 2
        with pytest.raises(cellyard.ControllerUnavailable, match="speaks protocol 2, and this client"):
            await session.connect()

    async def test_repr_names_class_id_and_status(self, session: Any) -> None:
        kind = "AsyncSession" if isinstance(session, cellyard.AsyncSession) else "Session"
        shown = f"{kind}(id={session.notebook_id}, status="
        assert repr(session) == shown + "disconnected)"
        await session.connect()
        assert repr(session) == shown + "connected)"
        await session.run("1")
        assert repr(session) == shown + "kernel_running)"
        await session.close()
        assert repr(session) == shown + "disconnected)"

    @pytest.mark.parametrize("call", ["start_kernel", "create_cell", "run", "set_metadata", "get_metadata"])
    async def test_these_connect_by_themselves(self, session: Any, call: str) -> None:
        arguments = {"run": ("1",), "set_metadata": ("k", "v"), "get_metadata": ("k",)}.get(call, ())
        await getattr(session, call)(*arguments)
        assert await session.is_connected()

    async def test_execute_cell_connects_by_itself(self, session: Any, flavour: str, endpoint: str) -> None:
        cell_id = await session.create_cell("6 * 7")
        other = flavours.session(flavour, session.notebook_id, endpoint=endpoint)
        async with other:
            assert (await other.execute_cell(cell_id)).value == 42

    @pytest.mark.parametrize(
        ("call", "arguments"),
        [
            ("set_source", ("cell-1", "x")),
            ("get_cell", ("cell-1",)),
            ("get_cells", ()),
            ("delete_cell", ("cell-1",)),
            ("queue_cell", ("cell-1",)),
            ("interrupt", ()),
            ("shutdown_kernel", ()),
        ],
    )
    async def test_these_need_a_connection(self, session: Any, call: str, arguments: tuple[str, ...]) -> None:
        with pytest.raises(cellyard.NotConnected, match="not connected"):
            await getattr(session, call)(*arguments)

    async def test_a_closed_session_refuses_every_call_until_it_connects(self, session: Any) -> None:
        await session.run("1")
        await session.close()
        await session.close()
        assert not await session.is_connected()
        assert not await session.kernel_started()
        for call, arguments in (("run", ("1",)), ("get_cells", ()), ("create_cell", ()), ("wait", ("e",))):
            with pytest.raises(cellyard.NotConnected, match="closed"):
                await getattr(session, call)(*arguments)
        await session.connect()
        assert (await session.run("2")).value == 2

    async def test_nobody_there_is_no_grpc_error(self, flavour: str, tmp_path: Path) -> None:
        for endpoint in (f"unix:{tmp_path}/none.sock", "127.0.0.1:1"):
            session = flavours.session(flavour, endpoint=endpoint)
            with pytest.raises(cellyard.ControllerUnavailable, match=re.escape(endpoint)):
                await session.connect()
            assert not await session.is_connected()

    async def test_runtimed_socket_path_is_respected(
        self, flavour: str, line: Faultline, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RUNTIMED_SOCKET_PATH", str(line.path))
        async with flavours.session(flavour) as session:
            assert (await session.run("1")).value == 1

    async def test_a_token_travels_as_bearer(self, flavour: str, endpoint: str, controller: ScriptedController) -> None:
        controller.token = "s3cret"
        async with flavours.session(flavour, endpoint=endpoint, token="s3cret") as session:
            assert (await session.run("1")).value == 1
        assert {metadata["authorization"] for metadata in controller.metadata} == {"Bearer s3cret"}

    @pytest.mark.parametrize("token", ["wrong", "", "käse", "x" * 5000, "two words"])
    async def test_every_bad_token_reads_alike(
        self, flavour: str, endpoint: str, controller: ScriptedController, token: str
    ) -> None:
        controller.token = "s3cret"
        with pytest.raises(cellyard.Unauthenticated) as caught:
            await flavours.session(flavour, endpoint=endpoint, token=token).connect()
        assert str(caught.value) == "authentication failed"

    async def test_tcp_works_like_a_socket(self, flavour: str, controller: ScriptedController) -> None:
        second = ScriptedController()
        port = second.start("127.0.0.1:0")
        try:
            async with flavours.session(flavour, endpoint=f"127.0.0.1:{port}") as session:
                assert (await session.run("3")).value == 3
        finally:
            second.stop()

    @pytest.mark.parametrize(
        "settings",
        [
            {"notebook_id": ""},
            {"notebook_id": 7},
            {"require": "container_isolation"},
            {"runtime": ""},
            {"template": 3},
            {"network": ""},
            {"env": {"A": 1}},
            {"ttl": 0},
            {"idle_timeout": float("inf")},
            {"endpoint": "nowhere"},
        ],
    )
    async def test_settings_are_checked_at_the_first_call(
        self, flavour: str, endpoint: str, settings: dict[str, Any]
    ) -> None:
        session = flavours.session(flavour, **{"endpoint": endpoint, **settings})
        with pytest.raises(cellyard.InvalidRequest):
            await session.run("1")

    async def test_settings_reach_the_controller(
        self, flavour: str, endpoint: str, controller: ScriptedController
    ) -> None:
        session = flavours.session(
            flavour,
            endpoint=endpoint,
            runtime="process",
            template="big",
            network="none",
            require={"timeout"},
            env={"A": "1"},
            files={"data.csv": b"1,2"},
            start_timeout=5,
            idle_timeout=6,
            ttl=7,
        )
        async with session:
            await session.run("1")
        sent = controller.called("Executions.Execute")[0].kernel
        assert (sent.kernel_type, sent.env_source) == ("", "")
        assert (sent.runtime, sent.template, sent.network) == ("process", "big", "none")
        assert (list(sent.require), dict(sent.env)) == (["timeout"], {"A": "1"})
        assert [(file.name, file.content) for file in sent.files] == [("data.csv", b"1,2")]
        assert (sent.start_timeout_s, sent.idle_timeout_s, sent.ttl_s) == (5, 6, 7)


class TestKernel:
    async def test_start_kernel_tells_progress_and_settings(
        self, flavour: str, endpoint: str, controller: ScriptedController
    ) -> None:
        controller.progress = [kernels_pb2.Progress(stage="create", message="making a container", fraction=0.5)]
        seen: list[cellyard.Progress] = []
        async with flavours.session(flavour, endpoint=endpoint, on_progress=seen.append) as session:
            await session.start_kernel()
            assert await session.kernel_started()
            assert await session.env_source() == "uv:prewarmed"
        assert seen == [cellyard.Progress("create", "making a container", 0.5)]
        asked = controller.called("Kernels.Start")[0].settings
        assert (asked.kernel_type, asked.env_source) == ("python", "auto")

    async def test_kernels_that_start_later_are_of_the_kind_that_was_asked_for(
        self, session: Any, controller: ScriptedController
    ) -> None:
        await session.start_kernel("deno", "auto", Path("/somewhere/x.ipynb"))
        await session.shutdown_kernel()
        await session.run("1")
        assert controller.called("Executions.Execute")[0].kernel.kernel_type == "deno"

    async def test_another_sessions_kernel_counts(self, session: Any, flavour: str, endpoint: str) -> None:
        await session.run("x = 5")
        other = flavours.session(flavour, session.notebook_id, endpoint=endpoint)
        await other.connect()
        assert await other.kernel_started()
        assert (await other.run("x")).value == 5
        await other.shutdown_kernel()
        assert not await session.kernel_started()
        await other.close()

    async def test_another_kernel_type_is_a_mismatch(self, session: Any) -> None:
        await session.start_kernel()
        with pytest.raises(cellyard.KernelMismatch):
            await session.start_kernel("deno")

    @pytest.mark.parametrize("arguments", [("", "auto"), ("python", ""), ("cobol", "auto"), (None, "auto")])
    async def test_unknown_kinds_are_invalid(self, session: Any, arguments: tuple[Any, ...]) -> None:
        with pytest.raises(cellyard.InvalidRequest):
            await session.start_kernel(*arguments)

    async def test_shutdown_is_idempotent(self, session: Any) -> None:
        await session.start_kernel()
        await session.shutdown_kernel()
        await session.shutdown_kernel()
        assert not await session.kernel_started()

    async def test_interrupt_needs_a_kernel(self, session: Any) -> None:
        await session.connect()
        with pytest.raises(cellyard.NoKernel, match="no kernel"):
            await session.interrupt()
        await session.start_kernel()
        await session.interrupt()
        await session.interrupt(restart_after=2)

    async def test_restart_gives_a_fresh_kernel(self, session: Any, controller: ScriptedController) -> None:
        with pytest.raises(cellyard.NoKernel):
            await session.restart_kernel()
        await session.run("x = 1")
        await session.restart_kernel()
        assert (await session.run("x")).error.ename == "NameError"

    async def test_capabilities_with_evidence(self, flavour: str, endpoint: str) -> None:
        async with flavours.session(flavour, endpoint=endpoint) as session:
            assert await session.supports("container_isolation")
            assert await session.supported_capabilities() == {"timeout", "container_isolation"}
            assert (await session.capabilities())[0].evidence == "an interrupt ended a loop"
            with pytest.raises(cellyard.InvalidRequest, match="unknown capability 'magic'"):
                await session.supports("magic")
        async with flavours.session(flavour, endpoint=endpoint, runtime="process") as session:
            assert not await session.supports("container_isolation")

    async def test_leaving_shuts_the_kernel_down_for_the_last_one_only(
        self, flavour: str, endpoint: str, controller: ScriptedController
    ) -> None:
        async with flavours.session(flavour, "shared", endpoint=endpoint) as first:
            await first.run("1")
            async with flavours.session(flavour, "shared", endpoint=endpoint) as second:
                await second.run("2")
            assert await first.kernel_started()
        assert controller.notebook("shared").kernel is None
        controller.until(lambda: not controller.sessions)
        assert len(controller.closed_sessions) == 2

    async def test_nothing_called_nothing_done(
        self, flavour: str, endpoint: str, controller: ScriptedController
    ) -> None:
        async with flavours.session(flavour, endpoint=endpoint):
            pass
        assert controller.calls == []

    async def test_errors_of_the_body_pass_and_those_of_leaving_do_not(
        self, flavour: str, endpoint: str, controller: ScriptedController
    ) -> None:
        controller.faults["Sessions.Close"].append(Refusal("NOTEBOOK_NOT_FOUND", "gone"))
        with pytest.raises(ZeroDivisionError):  # noqa: PT012
            async with flavours.session(flavour, endpoint=endpoint) as session:
                await session.run("1")
                raise ZeroDivisionError


class TestCells:
    async def test_cells_come_in_document_order(self, session: Any) -> None:
        second = await session.create_cell("b = 2")
        first = await session.create_cell("# text", cell_type="markdown", index=0)
        third = await session.create_cell("c", index=10**30)
        assert [cell.id for cell in await session.get_cells()] == [first, second, third]
        cell = await session.get_cell(first)
        assert (cell.cell_type, cell.source, cell.execution_count, cell.outputs) == ("markdown", "# text", None, [])
        assert re.fullmatch(r"cell-[0-9a-f-]{36}", first)

    @pytest.mark.parametrize("source", ["", "\r\n\t ", "\0", "🧪 é e\u0301", "x" * 100_000])
    async def test_sources_round_trip(self, session: Any, source: str) -> None:
        cell_id = await session.create_cell(source)
        assert (await session.get_cell(cell_id)).source == source
        await session.set_source(cell_id, source + "\n")
        assert (await session.get_cell(cell_id)).source == source + "\n"

    @pytest.mark.parametrize(
        "arguments",
        [
            {"index": -1},
            {"index": "1"},
            {"cell_type": "python"},
            {"source": b"x"},
            {"source": "\ud800"},
        ],
    )
    async def test_bad_cells_are_invalid(self, session: Any, arguments: dict[str, Any]) -> None:
        with pytest.raises(cellyard.InvalidRequest):
            await session.create_cell(**arguments)

    async def test_an_unknown_cell_is_not_found(self, session: Any) -> None:
        await session.connect()
        for call in (session.get_cell("nope"), session.delete_cell("nope"), session.set_source("nope", "")):
            with pytest.raises(cellyard.RuntimedError, match="not found") as caught:
                await call
            assert isinstance(caught.value, cellyard.CellNotFound)
            assert caught.value.details["cell_id"] == "nope"

    async def test_a_deleted_cell_is_gone(self, session: Any) -> None:
        cell_id = await session.create_cell("1")
        await session.delete_cell(cell_id)
        assert await session.get_cells() == []
        with pytest.raises(cellyard.CellNotFound):
            await session.delete_cell(cell_id)

    async def test_compare_and_set(self, session: Any) -> None:
        cell = await session.get_cell(await session.create_cell("1"))
        await session.set_source(cell.id, "2", if_version=cell.version)
        with pytest.raises(cellyard.CellChanged):
            await session.set_source(cell.id, "3", if_version=cell.version)

    async def test_metadata_is_text(self, session: Any) -> None:
        assert await session.get_metadata("k") is None
        await session.set_metadata("k", "")
        assert await session.get_metadata("k") == ""
        with pytest.raises(cellyard.InvalidRequest):
            await session.set_metadata("k", {"a": 1})

    async def test_cells_know_their_outputs(self, session: Any) -> None:
        result = await session.run("print('a')\nprint('b')\n7")
        cell = await session.get_cell(result.cell_id)
        assert (cell.execution_count, cell.execution_id) == (1, result.execution_id)
        assert [output.text for output in cell.outputs] == ["a\nb\n", None]
        assert cell.outputs == result.outputs


class TestExecution:
    async def test_a_result_says_it_all(self, session: Any) -> None:
        result = await session.run("print('out')\nwarn('err')\ndisplay('shown')\n[1, 2]")
        assert (result.success, result.is_ok, result.end, result.status) == (True, True, "succeeded", "succeeded")
        assert (result.stdout, result.stderr, result.execution_count) == ("out\n", "err", 1)
        assert (result.value, result.value_is_repr) == ([1, 2], False)
        assert [output.data for output in result.display_data] == [{"text/plain": "shown"}, {"text/plain": "[1, 2]"}]
        assert result.error is None
        assert result.duration >= 0
        assert result.usage.cpu_s == 0.01
        assert result.text == "out\nerr\nshown\n[1, 2]\n"

    async def test_an_exception_is_a_result(self, session: Any) -> None:
        result = await session.run("print('before')\n1 / 0")
        assert (result.success, result.end, result.stdout) == (False, "failed", "before\n")
        assert (result.error.ename, result.error.evalue) == ("ZeroDivisionError", "division by zero")
        assert result.error.traceback == ["ZeroDivisionError: division by zero"]

    async def test_a_value_that_is_no_data_is_its_repr(self, session: Any) -> None:
        result = await session.run("object")
        assert (result.value, result.value_is_repr) == ("<class 'object'>", True)

    async def test_parallel_runs_each_get_their_own(self, session: Any) -> None:
        results = await asyncio.gather(*[session.run(f"print({number})\n{number}") for number in range(20)])
        assert [result.value for result in results] == list(range(20))
        assert [result.stdout for result in results] == [f"{number}\n" for number in range(20)]

    async def test_a_cell_that_is_no_code_is_refused(self, session: Any) -> None:
        cell_id = await session.create_cell("# title", "markdown")
        with pytest.raises(cellyard.InvalidRequest, match="non-code cell"):
            await session.execute_cell(cell_id)
        with pytest.raises(cellyard.CellNotFound):
            await session.execute_cell("nope")

    async def test_outputs_come_as_they_are_made(self, session: Any, controller: ScriptedController) -> None:
        seen: list[str] = []

        def show(output: cellyard.Output) -> None:
            seen.append(output.text or "")
            if output.text == "first\n":
                controller.gates.open("go")

        result = await session.run("print('first')\ngate('go')\nprint('second')", on_output=show)
        assert seen == ["first\n", "second\n"]
        assert len(result.outputs) == 1

    async def test_a_timeout_interrupts_and_tells_what_was_shown(self, session: Any) -> None:
        with pytest.raises(cellyard.ExecutionTimeout, match=r"timed out after 0\.2 s") as caught:
            await session.run("print('so far')\ngate('never')", timeout_secs=0.2)
        error = caught.value
        assert isinstance(error, TimeoutError)
        assert (error.result.stdout, error.result.end, error.result.success) == ("so far\n", "timed_out", False)
        assert error.execution_id == error.result.execution_id
        assert (await session.run("1")).value == 1

    async def test_a_timeout_may_leave_the_cell_running(self, session: Any, controller: ScriptedController) -> None:
        with pytest.raises(cellyard.ExecutionTimeout, match="goes on") as caught:
            await session.run("print('a')\ngate('go')\nprint('b')", timeout_secs=0.2, on_timeout="detach")
        assert caught.value.result.stdout == "a\n"
        assert not controller.called("Executions.Execute")[0].HasField("timeout_s")
        controller.gates.open("go")
        result = await session.wait(caught.value.execution_id)
        assert (result.stdout, result.end) == ("a\nb\n", "succeeded")

    async def test_a_detachable_cell_that_is_in_time(self, session: Any) -> None:
        result = await session.run("print('a')\n5", timeout_secs=30, on_timeout="detach")
        assert (result.value, result.stdout) == (5, "a\n")

    @pytest.mark.parametrize("timeout", [0, -1, float("nan"), "1", True])
    async def test_times_that_are_none(self, session: Any, timeout: Any) -> None:
        with pytest.raises(cellyard.InvalidRequest):
            await session.run("1", timeout)

    async def test_no_limit(self, session: Any, controller: ScriptedController) -> None:
        await session.run("1", None)
        await session.run("1", float("inf"))
        assert not any(start.HasField("timeout_s") for start in controller.called("Executions.Execute"))

    @pytest.mark.parametrize("keyword", ["on_timeout", "on_cancel"])
    async def test_unknown_choices_are_invalid(self, session: Any, keyword: str) -> None:
        with pytest.raises(cellyard.InvalidRequest, match="one of"):
            await session.run("1", **{keyword: "explode"})

    async def test_a_lost_kernel_is_an_error_in_the_result(self, session: Any, controller: ScriptedController) -> None:
        running = asyncio.ensure_future(session.run("print('x')\ngate('never')"))
        await asyncio.to_thread(controller.gates.await_reached, "never")
        kernel = controller.notebook(session.notebook_id).kernel
        assert kernel is not None
        kernel.lose("oom: memory beyond 1 GiB")
        result = await running
        assert (result.end, result.end_reason, result.success, result.stdout) == ("lost", "oom", False, "x\n")
        assert (result.error.ename, result.error.evalue) == ("KernelDied", "memory beyond 1 GiB")
        assert (await session.run("2")).value == 2

    @pytest.mark.parametrize(
        ("reason", "error"),
        [
            ("start_failed: the image cellyard/python is missing: `make image`", cellyard.EnvironmentFailed),
            ("capability_unavailable: the engine does not answer", cellyard.CapabilityUnavailable),
            ("quota_exceeded: 4 sandboxes", cellyard.QuotaExceeded),
            ("start_timeout: it waited 300 s", cellyard.ExecutionTimeout),
        ],
    )
    async def test_whoever_awaits_is_told_why_there_is_no_kernel(
        self, session: Any, controller: ScriptedController, reason: str, error: type[cellyard.CellyardError]
    ) -> None:
        controller.no_kernel = reason
        with pytest.raises(error, match=re.escape(reason.split(": ", 1)[1])):
            await session.run("1")
        (found,) = await session.list_executions()
        assert (found.end, found.end_reason) == ("cancelled", reason.split(":")[0])

    async def test_a_kernel_that_somebody_shut_down_is_a_result(
        self, session: Any, controller: ScriptedController
    ) -> None:
        controller.no_kernel = "shutdown"
        result = await session.run("1")
        assert (result.end, result.end_reason, result.success) == ("cancelled", "shutdown", False)

    async def test_refusals_keep_their_details(self, session: Any, controller: ScriptedController) -> None:
        controller.faults["Executions.Execute"].append(
            Refusal("QUOTA_EXCEEDED", "too many", {"quota": "queued", "retryable": "true"}, retry_after_s=3)
        )
        with pytest.raises(cellyard.QuotaExceeded) as caught:
            await session.run("1")
        assert caught.value.retryable
        assert caught.value.details == {"quota": "queued", "retry_after_s": 3.0}


class TestQueue:
    async def test_a_queued_cell_runs_by_itself(self, session: Any) -> None:
        cell_id = await session.create_cell("print('done')")
        execution_id = await session.queue_cell(cell_id)
        result = await session.wait(execution_id)
        assert (result.stdout, result.execution_id) == ("done\n", execution_id)
        assert (await session.get_cell(cell_id)).outputs[0].text == "done\n"

    async def test_the_same_cell_twice_is_one_execution(self, session: Any, controller: ScriptedController) -> None:
        cell_id = await session.create_cell("gate('go')")
        first = await session.queue_cell(cell_id)
        assert await session.queue_cell(cell_id) == first
        controller.gates.open("go")
        await session.wait(first)
        assert await session.queue_cell(cell_id) != first

    async def test_stop_on_error_is_a_property_of_the_waiting_one(
        self, session: Any, controller: ScriptedController
    ) -> None:
        cells = [await session.create_cell(source) for source in ("gate('go')\n1 / 0", "'a'", "'b'")]
        await session.queue_cell(cells[0])
        stopped = await session.queue_cell(cells[1])
        kept = await session.queue_cell(cells[2], stop_on_error=False)
        controller.gates.open("go")
        assert (await session.wait(kept)).value == "b"
        assert (await session.wait(stopped)).end == "cancelled"

    async def test_waiting_may_end_early(self, session: Any, controller: ScriptedController) -> None:
        execution_id = await session.queue_cell(await _cell(session, "print('x')\ngate('go')"))
        await asyncio.to_thread(controller.gates.await_reached, "go")
        with pytest.raises(cellyard.ExecutionTimeout, match="goes on") as caught:
            await session.wait(execution_id, timeout=0.1)
        assert caught.value.result.stdout == "x\n"
        assert caught.value.result.status == "running"
        controller.gates.open("go")
        assert (await session.wait(execution_id, timeout=30)).success

    async def test_cancel_ends_what_waits_and_what_runs(self, session: Any, controller: ScriptedController) -> None:
        running = await session.queue_cell(await _cell(session, "gate('never')"))
        waiting = await session.queue_cell(await _cell(session, "1"))
        await asyncio.to_thread(controller.gates.await_reached, "never")
        assert (await session.get_execution(waiting)).status == "queued"
        await session.cancel(waiting)
        await session.cancel(running)
        assert (await session.wait(waiting)).end == "cancelled"
        assert (await session.wait(running)).end == "interrupted"
        await session.cancel(running)

    async def test_executions_are_listed_newest_first(self, session: Any) -> None:
        made = [(await session.run(str(number))).execution_id for number in range(5)]
        assert [found.execution_id for found in await session.list_executions()] == made[::-1]
        two = await session.list_executions(limit=2, before=made[3])
        assert [found.execution_id for found in two] == [made[2], made[1]]
        with pytest.raises(cellyard.InvalidRequest):
            await session.list_executions(limit=0)

    async def test_an_unknown_execution_is_not_found(self, session: Any) -> None:
        for call in (session.get_execution("e"), session.wait("e"), session.cancel("e")):
            with pytest.raises(cellyard.ExecutionNotFound):
                await call

    async def test_executions_are_there_for_everybody(self, session: Any, flavour: str, endpoint: str) -> None:
        result = await session.run("print('mine')")
        async with flavours.session(flavour, session.notebook_id, endpoint=endpoint) as other:
            assert (await other.get_execution(result.execution_id)).stdout == "mine\n"
            assert (await other.wait(result.execution_id)).stdout == "mine\n"


class TestStream:
    async def test_events_come_in_order_and_end_with_the_result(self, session: Any) -> None:
        source = "print('a')\ndisplay('x', 'id')\nupdate('id', 'y')\nclear_output(True)\nprint('b')\n3"
        got = [event async for event in session.stream_execute(code=source)]
        kinds = [type(event).__name__ for event in got]
        assert kinds == [
            "Started",
            "OutputEvent",
            "OutputEvent",
            "DisplayUpdated",
            "OutputCleared",
            "OutputEvent",
            "OutputEvent",
            "Finished",
        ]
        assert [event.seq for event in got] == list(range(2, 10))
        assert got[-1].result.value == 3
        assert [output.text for output in got[-1].result.outputs] == ["b\n", None]
        assert repr(got[1]) == "OutputEvent(seq=3, 'a\\n')"
        assert "succeeded" in repr(got[-1])

    async def test_whoever_waits_behind_others_is_told(self, session: Any, controller: ScriptedController) -> None:
        await session.queue_cell(await _cell(session, "gate('go')"))
        await asyncio.to_thread(controller.gates.await_reached, "go")
        events = []
        async for event in session.stream_execute(cell_id=await _cell(session, "1")):
            events.append(event)
            controller.gates.open("go")
        assert isinstance(events[0], cellyard.Queued)
        assert events[0].ahead == 1

    async def test_waiting_for_a_sandbox_is_told(self, session: Any, controller: ScriptedController) -> None:
        from cellyard_proto.v1 import executions_pb2

        controller.waiting = [executions_pb2.Waiting(reason="capacity", position=3, eta_s=1.5)]
        controller.progress = [kernels_pb2.Progress(stage="claim", message="claiming")]
        events = [event async for event in session.stream_execute(code="1")]
        waiting = next(event for event in events if isinstance(event, cellyard.Waiting))
        assert (waiting.reason, waiting.position, waiting.eta_s) == ("capacity", 3, 1.5)
        assert any(isinstance(event, cellyard.Progress) and event.message == "claiming" for event in events)

    async def test_a_timeout_is_in_the_result(self, session: Any) -> None:
        events = [event async for event in session.stream_execute(code="gate('never')", timeout_secs=0.1)]
        assert events[-1].result.end is cellyard.End.TIMED_OUT

    async def test_a_detached_stream_raises_at_its_time(self, session: Any) -> None:
        with pytest.raises(cellyard.ExecutionTimeout):
            async for _ in session.stream_execute(code="gate('never')", timeout_secs=0.1, on_timeout="detach"):
                pass

    async def test_cell_or_code(self, session: Any) -> None:
        for arguments in ({}, {"cell_id": "a", "code": "b"}):
            with pytest.raises(cellyard.InvalidRequest, match="one of them"):
                session.stream_execute(**arguments)


async def _cell(session: Any, source: str) -> str:
    return str(await session.create_cell(source))
