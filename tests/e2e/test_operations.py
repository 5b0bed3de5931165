"""What an operator sees from outside of a controller with real sandboxes."""

from __future__ import annotations

import re
import time
import urllib.request
from pathlib import Path

import pytest

import cellyard
from tests.controller_process import Process
from tests.otlp_receiver import Receiver, attributes

pytestmark = pytest.mark.docker

WITHIN = 90.0
PROVEN = {"container_isolation", "deps_install", "network_isolation", "process_isolation", "reset", "timeout"}
GRANTED = re.compile(
    r'^cellyard_capability_granted\{capability="(\w+)",network="(\w+)",runtime="docker",template="default"\} ([01])\.0',
    re.MULTILINE,
)


def test_metrics_and_traces_tell_what_was_proven_and_what_runs(built_image: str, folder: Path) -> None:
    process, receiver = Process(folder), Receiver()
    process.start("--http", "127.0.0.1:0", env={"CELLYARD_TRACING__ENDPOINT": receiver.endpoint})
    address = re.search(r"serving HTTP\s+address=(\S+)", process.log.read_text())
    assert address is not None

    def scrape() -> str:
        token = (process.data / "http.token").read_text().strip()
        asked = urllib.request.Request(f"{address[1]}/metrics", headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(asked, timeout=WITHIN) as answer:
            return str(answer.read().decode())

    receiver.__enter__()
    try:
        give_up = time.monotonic() + WITHIN
        while not (found := GRANTED.findall(scrape())):  # until the canary is back
            assert time.monotonic() < give_up
            time.sleep(0.2)
        assert {name for name, network, granted in found if (network, granted) == ("none", "1")} == PROVEN
        with cellyard.Session(notebook_id="nb", endpoint=process.endpoint) as session:
            assert session.run("6 * 7").value == 42
            metrics = scrape()
            for line in (
                'cellyard_runtime_ready{runtime="docker"} 1.0',
                'cellyard_sandboxes{state="claimed",template="default"} 1.0',
                "cellyard_sandboxes_linked 1.0",
                'cellyard_executions_total{end="succeeded"} 1.0',
                "cellyard_sandbox_start_seconds_count 1.0",
            ):
                assert line in metrics.splitlines()
        assert 'cellyard_sandbox_ends_total{reason="shutdown",template="default"} 1.0' in scrape().splitlines()
        spans = receiver.spans("cellyard.execution", "cellyard.claim", "cellyard.agent", "cellyard.run")
        parents = {name: span.parent_span_id for name, span in spans.items()}
        execution = spans["cellyard.execution"].span_id
        assert (parents["cellyard.claim"], parents["cellyard.agent"]) == (execution, execution)
        assert parents["cellyard.run"] == spans["cellyard.agent"].span_id
        assert attributes(spans["cellyard.run"])["cellyard.peak_memory_bytes"] > 0
        assert 0 <= attributes(spans["cellyard.agent"])["cellyard.agent_waited_s"] < WITHIN
    finally:
        process.close()
        receiver.__exit__()
