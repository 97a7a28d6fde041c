"""Each protocol as it is holds in every state; each protocol with one rule broken does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from .catalogue import MODELS
from .explore import Model, explore, replay

VARIANTS = [(model, variant) for model in MODELS for variant in model.variants]


def name_of(value: Any) -> str:
    return value if isinstance(value, str) else str(value.name)


@pytest.mark.parametrize("model", MODELS, ids=name_of)
def test_every_property_holds_in_every_state(model: type[Model[Any]]) -> None:
    found = explore(model())
    assert found.counterexample is None, str(found.counterexample)


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


def test_names_of_models_are_unique() -> None:
    assert len({model.name for model in MODELS}) == len(MODELS)
