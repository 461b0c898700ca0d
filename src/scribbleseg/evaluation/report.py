"""The report: one HTML file that says how good the networks are, where they fail and what they were trained on.

It needs nothing but a browser: no font, no picture from elsewhere, and a short script without which all is still there,
only smaller. Curves are inline SVG, an image is embedded once and its label maps lie over it, so that a report of
dozens of pictures stays at a few megabytes.
"""

import base64
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from scribbleseg.evaluation.curves import by_recursion, draw_curves, loss_curve
from scribbleseg.evaluation.drawing import ERROR_COLOURS
from scribbleseg.evaluation.glossary import GLOSSARY, TUMOURS
from scribbleseg.evaluation.metrics import Score, paired_interval, summarise
from scribbleseg.evaluation.palette import BACKGROUND_COLOUR
from scribbleseg.evaluation.pictures import MAX_PICTURES, NAMED, Picture, Shared, figures, label_colours, n_figures
from scribbleseg.evaluation.verdict import Difference, verdict
from scribbleseg.files import atomically
from scribbleseg.types import DataError

__all__ = ["MAX_PICTURES", "Origin", "Picture", "RunSummary", "write_report"]

RUN_COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377")
"""Paul Tol's bright scheme (personal.sron.nl/~pault), readable on white and on black."""

AGREEMENT = "agreement with held-out scribbles"
"""What the page's head says only where a run has one."""

UPPER_BOUND_COLOUR = "#888888"
"""The colour of runs that were trained on full masks."""

HTML = b"<!doctype html"
"""How a page begins, in lower case."""

UNTRAINED = "These are the areas that the scribbles grow into. No network has learned from them yet."
"""What is said of a run that has seed areas alone."""


@dataclass(frozen=True)
class Origin:
    """What a run was made from. Everything may be unknown.

    Args:
        data_set: the data set's folder and format, for people to read.
        begun: the date and time when it was begun, in ISO 8601; "" for runs of versions that did not note it.
        training_cases: their number.
        drawn: the share of the voxels of the training cases that somebody drew on, 0 to 1; None for full masks.
    """

    data_set: str = ""
    begun: str = ""
    training_cases: int | None = None
    drawn: float | None = None


@dataclass(frozen=True)
class RunSummary:
    """What a report says about one run. Everything but the name may be empty.

    Args:
        name: the run's name.
        label_names: the label names by value, background first; what is scored may be regions made of several of them.
        recipe: the resolved recipe, as nested plain values.
        details: seed, versions, data fingerprint and whatever else belongs to the run's provenance.
        metrics: the records of the run's metrics.jsonl, events "train", "relabel" and "agreement".
        scores: the scores of the test cases.
        pictures: the pictures to show, of at most MAX_PICTURES slices.
        is_upper_bound: whether the run was trained on full masks: the others are compared with it.
        paper: Dice in the paper that it reproduces, by structure, and their "mean"; empty where there is none.
        origin: what it was made from.
        warnings: sentences that whoever reads of the run has to know, such as that its data set has changed.
    """

    name: str
    label_names: Sequence[str]
    recipe: Mapping[str, Any] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    metrics: Sequence[Mapping[str, Any]] = ()
    scores: Sequence[Score] = ()
    pictures: Sequence[Picture] = ()
    is_upper_bound: bool = False
    paper: Mapping[str, float] = field(default_factory=dict)
    origin: Origin = Origin()
    warnings: Sequence[str] = ()


def write_report(path: Path, runs: Sequence[RunSummary], title: str = "Segmentation from scribbles") -> None:
    """Writes the report of one or several runs, side by side.

    Args:
        path: the HTML file; an older one is replaced only once the new one is complete.
        runs: the runs, in the order in which they are listed; their labels may differ.
        title: the page's title.

    Raises:
        DataError: no run; a picture's maps differ in shape or hold undeclared values; the file cannot be written, or
            is there and is no HTML.
    """
    if not runs:
        raise DataError(f"{path}: expected at least one run to report, got none")
    check_page(path)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "volume": _volume}
    html = environment.get_template("report.html.jinja").render(_page(runs, title))
    with atomically(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


def check_page(path: Path) -> None:
    """Raises DataError where something else than a page of HTML lies where a report is to be written."""
    if path.is_file() and path.stat().st_size and path.read_bytes()[: len(HTML)].lower() != HTML:
        raise DataError(f"{path}: expected no file, or an older report, found something else; give another name")
    if path.exists() and not path.is_file():
        raise DataError(f"{path}: expected the name of an HTML file, found no file there; give another name")


def _page(runs: Sequence[RunSummary], title: str) -> dict[str, Any]:
    """What the template shows of the page."""
    shared = Shared()
    colours = label_colours(run.label_names for run in runs)
    run_colours = itertools.cycle(RUN_COLOURS)
    views = [
        _run_view(
            run,
            UPPER_BOUND_COLOUR if run.is_upper_bound else next(run_colours),
            _upper_bound(run, runs),
            figures(run.pictures, run.label_names, colours, shared),
        )
        for run in runs
    ]
    tumours = {name: TUMOURS[name] for view in views for name in view["structures"] if name in TUMOURS}
    return (
        _comparison(views)
        | {
            "title": title,
            "runs": views,
            "facts": _facts(runs, views),
            "label_colours": colours,
            "background_colour": BACKGROUND_COLOUR,
            "error_colours": ERROR_COLOURS,
            "curves": draw_curves(views),
            "shared": shared,
            "layers": _layers(views),
            "recipes": _side_by_side([run.recipe for run in runs]),
            "details": _side_by_side([run.details for run in runs]),
            "max_pictures": MAX_PICTURES,
            "glossary": GLOSSARY | tumours,
            "tumours": tumours,
        }
        | _script()
    )


def _layers(views: list[dict[str, Any]]) -> list[str]:
    """The layers over images that the page has, each of which has its switch and its words."""
    figures = [figure for view in views for figure in view["figures"]]
    tiles = [tile for figure in figures for column in figure["columns"] for tile in column["tiles"] if tile]
    shown = {"scribbles": "strokes", "labels": "labels", "errors": "errors"}
    there = {layer for layer, key in shown.items() if any(tile[key] for tile in tiles)}
    there |= {"outline"} if any(figure["outline"] for figure in figures) else set()
    return [layer for layer in ("scribbles", "labels", "outline", "errors") if layer in there]


def _script() -> dict[str, Any]:
    """The page's script, and the digest by which its policy knows it: no other script can run in the page."""
    script = (Path(__file__).parent / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return {"script": Markup(script), "script_digest": digest}


def _comparison(views: list[dict[str, Any]]) -> dict[str, Any]:
    """What the template shows of all runs together."""
    scored = [view for view in views if view["cases"]]
    structures = list(dict.fromkeys(itertools.chain.from_iterable(view["structures"] for view in views)))
    units = {view["units"] for view in scored}
    return {
        "best": _best(views),
        "unscored": [view for view in views if view["agreement"] is not None] or views[:1],
        "upper_bounds": list(dict.fromkeys(view["upper_bound"] for view in views if view["difference"])),
        "same_cases": len({frozenset(view["case_names"]) for view in scored}) <= 1,
        "same_structures": len({frozenset(view["structures"]) for view in scored}) <= 1,
        "structures": structures,
        "many": len(structures) > NAMED,
        "units": units.pop() if len(units) == 1 else None,
    }


def _run_view(
    run: RunSummary, colour: str, upper_bound: RunSummary | None, shown: list[dict[str, Any]]
) -> dict[str, Any]:
    """What the template shows of a run."""
    cases = _cases(run.scores)
    masks = [score for score in run.scores if not score.auxiliary]
    trained = [record for record in run.metrics if record.get("event") == "train"]
    speeds = [record["images_per_second"] for record in trained if "images_per_second" in record]
    difference = None if upper_bound is None else _difference(cases, upper_bound)
    known = by_recursion(run.metrics)
    begun = bool(run.scores or run.metrics)
    agreement = known["agreement"][-1][1] if known["agreement"] else None
    return {
        "name": run.name,
        "warnings": run.warnings,
        "colour": colour,
        "is_upper_bound": run.is_upper_bound,
        "paper": run.paper,
        "summary": {row["structure"]: row for row in summarise(run.scores)},
        "structures": _structures(run),
        "case_names": {case["name"] for case in cases},
        "cases": cases,
        "poor": sum(score.dice < 0.5 for score in masks),
        "masks": len(masks),
        "upper_bound": upper_bound and upper_bound.name,
        "difference": difference,
        "agreement": agreement,
        "verdict": verdict(run.scores, difference, agreement) if begun else [UNTRAINED],
        "begun": begun,
        "units": ("px", "pixels") if run.scores and all(s.in_pixels for s in run.scores) else ("mm", "ml"),
        "loss": loss_curve(trained),
        "by_recursion": known,
        "speed": float(np.median(speeds)) if speeds else None,
        "figures": shown,
        "more_figures": n_figures(run.pictures) - len(shown),
    }


def _facts(runs: Sequence[RunSummary], views: list[dict[str, Any]]) -> list[tuple[str, list[tuple[str, str]]]]:
    """What the page's head says: a title, and the values that runs have, with the names of those where they differ."""
    said: dict[str, list[str]] = {
        "data set": [run.origin.data_set for run in runs],
        "begun": [_date(run.origin.begun) for run in runs],
        "training cases": ["" if (n := run.origin.training_cases) is None else str(n) for run in runs],
        "voxels drawn": [_drawn(run) for run in runs],
        AGREEMENT: ["" if view["agreement"] is None else _number(view["agreement"], 2) for view in views],
    }
    facts = []
    for title, values in said.items():
        names: dict[str, list[str]] = {}
        for run, value in zip(runs, values, strict=True):
            names.setdefault(value, []).append(run.name)
        known = [value for value in names if value] or ["–"]
        facts.append((title, [(value, "" if len(known) == 1 else ", ".join(names[value])) for value in known]))
    return [fact for fact in facts if fact[0] != AGREEMENT or fact[1][0][0] != "–"]


def _date(begun: str) -> str:
    """An ISO date with its time to the minute."""
    return datetime.fromisoformat(begun).strftime("%Y-%m-%d %H:%M") if begun else ""


def _drawn(run: RunSummary) -> str:
    """The share of the voxels that were drawn, with two digits."""
    if run.is_upper_bound:
        return "all, by reference masks"
    return "" if run.origin.drawn is None else f"{float(f'{100 * run.origin.drawn:.2g}'):g} %"


def _structures(run: RunSummary) -> list[str]:
    return list(dict.fromkeys(score.structure for score in run.scores))


def _upper_bound(run: RunSummary, runs: Sequence[RunSummary]) -> RunSummary | None:
    """The run on full masks that was scored on the same structures; the mean Dice of others is not comparable."""
    if run.is_upper_bound or not run.scores:
        return None
    bounds = (other for other in runs if other.is_upper_bound and set(_structures(other)) == set(_structures(run)))
    return next(bounds, None)


def _number(value: float | None, digits: int = 3, sign: bool = False) -> str:
    """A number as the page shows it: a dash for none or NaN, a real minus sign."""
    if value is None or np.isnan(value):
        return "–"
    return f"{round(value, digits) + 0.0:{'+' if sign else ''}.{digits}f}".replace("-", "−")  # + 0.0: no minus zero


def _volume(value: float, unit: str, sign: bool = False) -> str:
    """A volume as the page shows it: in ml, or as a whole number of pixels."""
    return _number(value, 1 if unit == "ml" else 0, sign)


def _cases(scores: Sequence[Score]) -> list[dict[str, Any]]:
    """Cases with their mean Dice, worst first."""
    by_case: dict[str, dict[str, Score]] = {}
    for score in scores:
        by_case.setdefault(score.case, {})[score.structure] = score
    cases = [
        {
            "name": name,
            "scores": by_structure,
            "dice": float(np.mean([s.dice for s in by_structure.values() if not s.auxiliary])),
        }
        for name, by_structure in by_case.items()
    ]
    return sorted(cases, key=lambda case: (case["dice"], case["name"]))


def _difference(cases: list[dict[str, Any]], upper_bound: RunSummary) -> Difference | None:
    """The difference of a run's mean Dice to the upper bound's over the cases that both have, with its interval."""
    other = {case["name"]: case["dice"] for case in _cases(upper_bound.scores)}
    both = sorted((case["name"], case["dice"]) for case in cases if case["name"] in other)
    if not both:
        return None
    mean, low, high = paired_interval([mine for _, mine in both], [other[name] for name, _ in both])
    return Difference(mean, low, high, len(both), upper_bound.name)


def _best(views: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The run with the highest mean Dice among those scored on the most structures.

    The number of structures comes first: whole tumours alone are easier, so that their mean Dice is higher anyway. Runs
    on full masks count only where there are no others.
    """
    scored = [view for view in views if view["cases"]]
    from_scribbles = [view for view in scored if not view["is_upper_bound"]]
    return max(
        from_scribbles or scored,
        key=lambda view: (len(view["structures"]), view["summary"]["mean"]["dice_mean"]),
        default=None,
    )


def _side_by_side(settings: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The nested settings of several runs as rows: a dotted name, and the value of each run."""
    flat = [dict(_flatten(setting)) for setting in settings]
    rows = []
    for name in dict.fromkeys(itertools.chain.from_iterable(flat)):
        values = [setting.get(name, "–") for setting in flat]
        rows.append({"name": name, "values": values, "differs": len(set(values)) > 1})
    return rows


def _flatten(setting: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as pairs of dotted name and value."""
    if isinstance(setting, Mapping) and (setting or not prefix):
        return [
            pair
            for key, value in setting.items()
            for pair in _flatten(value, f"{prefix}.{key}" if prefix else str(key))
        ]
    return [(prefix, str(setting))]
