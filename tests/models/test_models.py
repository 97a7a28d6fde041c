"""Each protocol as it is holds in every state; each protocol with one rule broken does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .catalogue import MODELS, model_row, rows_of, tables, variant_row
from .explore import Model, explore, replay
from .lineage import Batches, State

SHOWN = rows_of((Path(__file__).parents[2] / "docs" / "MODELS.md").read_text())
VARIANTS = [(model, variant) for model in MODELS for variant in model.variants]


WRITE = "the page is old: python -m tests.models --write"


def name_of(value: Any) -> str:
    return value if isinstance(value, str) else str(value.name)


@pytest.mark.parametrize("model", MODELS, ids=name_of)
def test_every_property_holds_in_every_state(model: type[Model[Any]]) -> None:
    found = explore(model())
    assert found.counterexample is None, str(found.counterexample)
    assert model_row(model.name, found, "")[:-1] in [row[:-1] for row in SHOWN], WRITE


@pytest.mark.parametrize(("model", "variant"), VARIANTS, ids=name_of)
def test_without_one_rule_a_property_is_broken_and_the_trace_happens(
    model: type[Model[Any]], variant: str
) -> None:
    broken = model(variant)
    found = explore(broken).counterexample
    assert found is not None, "the model does not need this rule"
    assert found.broken == model.variants[variant]
    holds: Callable[[Any], bool] = broken.invariants().get(found.broken, lambda state: False)
    states = replay(broken, found.steps)
    assert found.state in states
    assert not holds(found.state)
    assert variant_row(variant, model.name, found) in SHOWN, WRITE


def test_the_page_shows_these_models_and_rules_and_no_others() -> None:
    headings = [row for row in rows_of_nothing() if row in SHOWN]
    assert len(headings) == 2
    shown = [tuple(row[:2]) for row in SHOWN if row not in headings]
    assert [row[0] for row in shown[: len(MODELS)]] == [model.name for model in MODELS]
    assert shown[len(MODELS) :] == [(variant, model.name) for model, variant in VARIANTS]


def rows_of_nothing() -> list[list[str]]:
    """The headings of the tables."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in tables([]).splitlines()
        if line.startswith("| ")
    ]


def test_what_the_log_model_forgets_does_not_matter() -> None:
    class Plain(Batches):
        def canonical(self, state: State) -> State:
            return state

    everything, shorter = explore(Plain()), explore(Batches())
    assert everything.counterexample is None
    assert everything.states > 2 * shorter.states


def test_names_of_models_are_unique() -> None:
    assert len({model.name for model in MODELS}) == len(MODELS)
