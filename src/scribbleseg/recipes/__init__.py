"""Every row of every paper's table, by name."""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType

from lightning_fabric import Fabric

from scribbleseg.pipeline import AnyRecipe, recipe_of
from scribbleseg.ranks import on_leader
from scribbleseg.recipes import can2018, default, ji2019
from scribbleseg.runs import has_begun, open_run
from scribbleseg.training.hardware import this_machine
from scribbleseg.types import DataError

PAPERS: Mapping[str, ModuleType] = {"can2018": can2018, "ji2019": ji2019}
"""Each defines RECIPES, recipes by name, and `table_1(family, iterations)`, its table by title."""


MODULES: Mapping[str, ModuleType] = {"default": default, **PAPERS}
"""Each defines RECIPES; `recipe_names` says what they are."""


def recipes() -> dict[str, AnyRecipe]:
    """All recipes by name: `can2018.acdc_base` is the row "base" of the family "acdc"."""
    return {f"{prefix}.{name}": recipe for prefix, module in MODULES.items() for name, recipe in module.RECIPES.items()}


def find(name: str) -> AnyRecipe:
    """The recipe of that name. Raises DataError listing what there is."""
    known = recipes()
    if name not in known:
        closest = get_close_matches(name, known, n=5, cutoff=0.3)
        raise DataError(
            f"expected the name of a recipe, got {name!r}; the closest are {', '.join(closest) or 'none'}, "
            "and `scribbleseg recipes` lists all"
        )
    return known[name]


def choose(out: Path, fabric: Fabric, start_from: Path | None = None) -> tuple[AnyRecipe, str]:
    """The recipe where nobody names one, and a sentence that says why; the same on all ranks.

    It is that of the run in the folder, if one has begun there, or of the run to start from, and else the one of our
    own that fits the machine.

    Args:
        out: the folder of the run.
        fabric: what it will be trained on.
        start_from: the folder of a run whose network the training starts from, if any.

    Raises:
        DataError: a run of a later version of scribbleseg, or a damaged one.
    """

    def look() -> tuple[AnyRecipe, str]:
        known = out if has_begun(out) else start_from
        if known is not None:
            return recipe_of(open_run(known)), f"Recipe: that of the run in {known}."
        machine = this_machine(fabric)
        name = f"default.{default.fitting(machine)}"
        return find(name), f"Recipe: {name}, which fits this machine ({machine})."

    return on_leader(look, fabric)
