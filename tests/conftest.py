"""Options and fixtures that all tests share."""

from __future__ import annotations

import pytest
from hypothesis import is_hypothesis_test, settings


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--chaos-seed", type=int, default=1, help="seed of the faults to draw")
    parser.addoption("--chaos-rounds", type=int, default=0, help="rounds (0: the short form)")


EXAMPLES_S_MAX = 900
settings.register_profile("without a clock", deadline=None)  # Loaded machines flake otherwise.
settings.register_profile("long", deadline=None, max_examples=5_000)  # See tests/stateful.
settings.load_profile("without a clock")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The usual limit of a test raises inside it. Hypothesis takes that for a failure of the
    example that happened to run, runs it again, and reports that the strategies are flaky, since it
    goes further this time. So its tests have one limit that no load reaches, and who meets it hangs
    in earnest: the process ends with all stacks."""
    for item in items:
        if is_hypothesis_test(getattr(item, "obj", None)):
            item.add_marker(pytest.mark.timeout(EXAMPLES_S_MAX, method="thread"), append=False)
