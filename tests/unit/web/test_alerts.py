"""The alerts that are offered as an example: each metric in them exists, with these labels and values."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from cellyard_controller.sandboxes.counts import COLD, WARM
from cellyard_controller.sandboxes.lifecycle import EndReason
from cellyard_controller.web.metrics import METRICS

ALERTS = Path(__file__).parents[3] / "examples" / "prometheus" / "alerts.yml"
KNOWN = {metric.name: metric for metric in METRICS}
VALUES = {"reason": {reason.value for reason in EndReason}, "found": {WARM, COLD}}


def test_alerts_are_about_metrics_that_there_are() -> None:
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    names = [rule["alert"] for rule in group["rules"]]
    assert len(names) == len(set(names)) > 5
    for rule in group["rules"]:
        assert rule.keys() <= {"alert", "expr", "for", "annotations"}
        used = re.findall(r"(cellyard_\w+)(?:\{([^}]*)\})?", rule["expr"])
        assert used, rule["alert"]
        told: set[str] = set()
        for name, matchers in used:
            told |= set(KNOWN[name].labels)
            for label, values in re.findall(r'(\w+)=~?"([^"]*)"', matchers):
                assert label in KNOWN[name].labels
                assert set(values.split("|")) <= VALUES.get(label, set(values.split("|")))
        assert set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])) <= told
