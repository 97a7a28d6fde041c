"""All models, and what exploring them and their variants showed, as the table of docs/MODELS.md."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from .explore import Exploration, Model, explore
from .deletion import Boundless, Deletion
from .lineage import Batches, Lineage, TwoHosts
from .once import Data, Names
from .recall import Recall
from .slots import Pipeline, Slots

MODELS: Final[tuple[type[Model[Any]], ...]] = (
    Lineage,
    Batches,
    TwoHosts,
    Slots,
    Pipeline,
    Recall,
    Data,
    Names,
    Deletion,
    Boundless,
)


@dataclass(frozen=True)
class Run:
    """One exploration. ``seconds``: of processor time."""

    model: str
    variant: str
    found: Exploration[Any]
    seconds: float


def run(model: type[Model[Any]], variant: str = "") -> Run:
    start = time.process_time()
    found = explore(model(variant))
    return Run(model.name, variant, found, time.process_time() - start)


def run_all() -> Iterator[Run]:
    """The models themselves first, then their variants."""
    for model in MODELS:
        yield run(model)
        for variant in model.variants:
            yield run(model, variant)


def tables(runs: list[Run]) -> str:
    """What was seen, in Markdown."""
    lines = ["| model | states | steps | depth | s |", "|---|---:|---:|---:|---:|"]
    for one in runs:
        if not one.variant:
            found = one.found
            lines.append(
                f"| {one.model} | {found.states:,} | {found.steps:,} | {found.depth} | "
                f"{one.seconds:.1f} |"
            )
    lines += ["", "| variant | model | first broken | steps |", "|---|---|---|---:|"]
    for one in runs:
        if one.variant and one.found.counterexample is not None:
            seen = one.found.counterexample
            lines.append(f"| {one.variant} | {one.model} | {seen.broken} | {len(seen.steps)} |")
    return "\n".join(lines)
