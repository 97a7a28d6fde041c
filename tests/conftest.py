"""Options and fixtures that all tests share."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--chaos-seed", type=int, default=1, help="seed of the faults to draw")
    parser.addoption("--chaos-rounds", type=int, default=0, help="rounds (0: the short form)")
