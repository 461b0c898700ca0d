"""Every row of every paper's table, by name."""

from difflib import get_close_matches

from scribbleseg.em import Recipe
from scribbleseg.hierarchy import Hierarchy
from scribbleseg.pipeline import Pipeline
from scribbleseg.recipes import can2018, ji2019
from scribbleseg.types import DataError


def recipes() -> dict[str, Pipeline]:
    """All of them: `can2018.acdc_base` is `scribbleseg.recipes.can2018.ACDC_BASE`."""
    return {
        f"{module.__name__.rsplit('.', 1)[1]}.{name.lower()}": value
        for module in (can2018, ji2019)
        for name, value in vars(module).items()
        if isinstance(value, Recipe | Hierarchy) and name.isupper()
    }


def find(name: str) -> Pipeline:
    """The recipe of that name. Raises DataError listing what there is."""
    known = recipes()
    if name not in known:
        closest = get_close_matches(name, known, n=5, cutoff=0.3)
        raise DataError(
            f"expected the name of a recipe, got {name!r}; the closest are {', '.join(closest) or 'none'}, "
            "and `scribbleseg recipes` lists all"
        )
    return known[name]
