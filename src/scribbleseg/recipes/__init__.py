"""Every row of every paper's table, by name."""

from collections.abc import Mapping
from difflib import get_close_matches
from types import ModuleType

from scribbleseg.pipeline import AnyRecipe
from scribbleseg.recipes import can2018, default, ji2019
from scribbleseg.types import DataError

PAPERS: Mapping[str, ModuleType] = {"can2018": can2018, "ji2019": ji2019}
"""Each defines RECIPES, recipes by name, and `table_1(family, iterations)`, its table by title."""

DEFAULT = "can2018.compact_base"
"""The recipe that is trained where nobody names one."""


def recipes() -> dict[str, AnyRecipe]:
    """All recipes by name: `can2018.acdc_base` is the row "base" of the family "acdc"."""
    modules = {"default": default, **PAPERS}
    return {f"{prefix}.{name}": recipe for prefix, module in modules.items() for name, recipe in module.RECIPES.items()}


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
