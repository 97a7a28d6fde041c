"""The state machine can fail: it finds bugs that are planted from here, and not without them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fs_machine import FileSystemMachine
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from sofs.core.window import FRESH, OpWindow
from sofs.services.authority import namespace, opens
from sofs.services.authority.handles import Handles

EXAMPLES_MAX = 400
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

Plant = Callable[[pytest.MonkeyPatch], None]


def share_modes_are_not_checked(patch: pytest.MonkeyPatch) -> None:
    for module in (opens, namespace):
        patch.setattr(module, "check_shares", lambda handles, need, deny: None)


def a_copy_of_a_write_is_executed_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(OpWindow, "judge", lambda self, op_sequence: FRESH)


def a_lock_ends_with_the_connection(patch: pytest.MonkeyPatch) -> None:
    sealed = Handles.seal_node

    def seal_node(self: Any, incarnation: bytes, sequence: int) -> list[int]:
        orphans = sealed(self, incarnation, sequence)
        for handle in orphans:
            self._run("DELETE FROM lock WHERE handle=?", handle)
        return orphans

    patch.setattr(Handles, "seal_node", seal_node)


BUGS: list[Plant] = [
    share_modes_are_not_checked,
    a_copy_of_a_write_is_executed_again,
    a_lock_ends_with_the_connection,
]


@pytest.mark.parametrize("plant", BUGS, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_found(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(
            FileSystemMachine,
            settings=settings(
                max_examples=EXAMPLES_MAX,
                stateful_step_count=50,
                phases=[Phase.generate],
                derandomize=True,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
