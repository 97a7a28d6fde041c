"""What the demo asks of a new Ray head: that the parts run on as they are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sofs.demo import faults
from sofs.demo.cluster import RAY_HEAD
from sofs.demo.faults import FAULTS, SHORT_FAULTS, Fault, FaultScript, faults_of
from sofs.demo.meter import Meter


class Headless:
    """Two parts, and a Ray head whose successor may start one of them anew."""

    def __init__(self, anew: bool) -> None:
        self._anew = anew
        self.calls: list[str] = []
        self.parts: dict[str, Any] = {
            "node-1": SimpleNamespace(pid=11),
            "witness-1": SimpleNamespace(pid=12),
        }

    @property
    def ray(self) -> Headless:
        return self

    def kill_head(self) -> None:
        self.calls.append("kill")

    def start_head(self) -> None:
        self.calls.append("start")
        if self._anew:
            self.parts["node-1"] = SimpleNamespace(pid=99)


@pytest.mark.parametrize("anew", [False, True])
def test_a_new_head_that_starts_a_part_anew_breaks_the_promise(
    anew: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "HEADLESS_S", 0.0)
    cluster: Any = Headless(anew)
    script = FaultScript(cluster, Meter(), [], lambda: None, lambda line: None)  # type: ignore[arg-type, return-value]
    script._strike(Fault("SIGKILL", RAY_HEAD, RAY_HEAD), frozen=False)
    script._bring_head_back()
    assert cluster.calls == ["kill", "start"]
    assert [("node-1" in text) for text in script.broken] == ([True] if anew else [])


def test_only_a_cluster_on_ray_loses_its_head_and_that_comes_last() -> None:
    for short, script in ((False, FAULTS), (True, SHORT_FAULTS)):
        assert faults_of(short=short, ray=True) == script
        assert script[-1] == ("SIGKILL", RAY_HEAD)
        assert faults_of(short=short, ray=False) == script[:-1]
