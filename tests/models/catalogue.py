"""All models, and what exploring them and their variants showed, as the table of docs/MODELS.md."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from .deletion import Boundless, Deletion
from .explore import Counterexample, Exploration, Model, explore
from .lineage import Batches, Lineage, TwoHosts
from .once import Data, Names
from .recall import Recall
from .slot_deletion import SlotDeletion
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
    SlotDeletion,
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


BEGIN: Final = "<!-- figures: begin -->"
END: Final = "<!-- figures: end -->"


def model_row(model: str, found: Exploration[Any], seconds: str) -> list[str]:
    return [model, f"{found.states:,}", f"{found.steps:,}", str(found.depth), seconds]


def variant_row(variant: str, model: str, seen: Counterexample[Any]) -> list[str]:
    return [variant, model, seen.broken, str(len(seen.steps))]


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def tables(runs: list[Run]) -> str:
    """What was seen, in Markdown."""
    lines = ["| model | states | steps | depth | s |", "|---|---:|---:|---:|---:|"]
    for one in runs:
        if not one.variant:
            lines.append(_line(model_row(one.model, one.found, f"{one.seconds:.1f}")))
    lines += ["", "| broken rule | model | what breaks | steps |", "|---|---|---|---:|"]
    for one in runs:
        if one.variant:
            seen = one.found.counterexample
            if seen is None:
                raise ValueError(f"{one.model} holds without its rule: {one.variant}")
            lines.append(_line(variant_row(one.variant, one.model, seen)))
    return "\n".join(lines)


def page_with(page: str, figures: str) -> str:
    """The page with new figures between its marks."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{figures}\n{END}{rest.split(END)[1]}"


def rows_of(page: str) -> list[list[str]]:
    """The cells of the figures that a page shows."""
    figures = page.split(BEGIN)[1].split(END)[0]
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in figures.splitlines()
        if line.startswith("| ")
    ]
