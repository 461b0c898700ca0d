"""The report: one HTML file that says how good the networks are, where they fail and what they were trained on.

It needs nothing but a browser: no script, no font, no picture from elsewhere. Curves are inline SVG, an image is
embedded once and its label maps lie over it, so that a report of dozens of pictures stays at a few megabytes.
"""

import base64
import hashlib
import io
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, PercentFormatter, StrMethodFormatter
from PIL import Image as PillowImage
from skimage.measure import find_contours

from scribbleseg.data.volumes import atomically
from scribbleseg.evaluate.metrics import Score, dice, paired_interval, summarise
from scribbleseg.types import UNLABELLED, DataError

MAX_PICTURES = 12
"""Pictures shown of each run; ours: more of them are not looked at, and the file stays small."""

STRUCTURE_COLOURS = ("#56b4e9", "#e69f00", "#cc79a7", "#009e73", "#f0e442", "#d55e00", "#0072b2")
"""Okabe & Ito's palette (jfly.uni-koeln.de/color), told apart with every kind of colour vision."""

BACKGROUND_COLOUR = "#4b5b9a"
"""Labelled as background: a blue that no structure has and that leaves the image visible."""

RUN_COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377")
"""Paul Tol's bright scheme (personal.sron.nl/~pault), readable on white and on black."""

UPPER_BOUND_COLOUR = "#888888"

LAYERS = {  # in the order of the pipeline: title, opacity, whether background is tinted, whether the reference is drawn
    "image": ("Image", 0.0, False, False),
    "scribbles": ("Scribbles", 1.0, True, False),
    "seeds": ("Seeds", 0.55, True, False),
    "pseudo_labels": ("Pseudo-labels", 0.55, True, False),
    "prediction": ("Prediction", 0.45, False, True),
    "reference": ("Reference", 0.45, False, True),
}

INK = "#010203"  # stands for the page's text colour in a figure: light or dark is the reader's choice


@dataclass(frozen=True)
class Picture:
    """One slice as one recursion left it. Everything but the image may be missing.

    Args:
        case: name of the case.
        slice_index: along depth, from 0.
        recursion: from 0, or None where there is none.
        image: `height width`, any intensity; shown between its 1st and 99th percentile.
        scribbles: uint8 `height width`; so are all label maps here.
        seeds: the seed areas grown from the scribbles.
        pseudo_labels: what the network was trained on in this recursion.
        prediction: the network's, after this recursion.
        reference: the reference mask.
        title: a remark, such as why this slice is shown; pictures with another title are another figure.
    """

    case: str
    slice_index: int
    recursion: int | None
    image: Float[np.ndarray, "height width"]
    scribbles: UInt8[np.ndarray, "..."] | None = None
    seeds: UInt8[np.ndarray, "..."] | None = None
    pseudo_labels: UInt8[np.ndarray, "..."] | None = None
    prediction: UInt8[np.ndarray, "..."] | None = None
    reference: UInt8[np.ndarray, "..."] | None = None
    title: str = ""


@dataclass(frozen=True)
class RunSummary:
    """What a report says of one run. Any of it but the name may be empty.

    Args:
        name: of the run; one that ends in "fully supervised" is the upper bound that the others are compared with.
        label_names: by value, background first; what is scored may be regions made of several of them.
        recipe: resolved, as nested plain values.
        details: seed, versions, data fingerprint and whatever else belongs to its provenance.
        metrics: records of the run's metrics.jsonl, events "train" and "relabel".
        scores: of the test cases.
        pictures: at most MAX_PICTURES of them are shown.
    """

    name: str
    label_names: Sequence[str]
    recipe: Mapping[str, Any] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    metrics: Sequence[Mapping[str, Any]] = ()
    scores: Sequence[Score] = ()
    pictures: Sequence[Picture] = ()

    @property
    def is_upper_bound(self) -> bool:
        """Trained on full masks, by its name: "fully supervised", "can2018.acdc_fully_supervised", ..."""
        return re.sub(r"[^a-z]+", " ", self.name.lower()).strip().endswith("fully supervised")


def write_report(path: Path, runs: Sequence[RunSummary], title: str = "Segmentation from scribbles") -> None:
    """Write the report of one or several runs, side by side.

    Args:
        path: of the HTML file; replaced at once or not at all.
        runs: in the order in which they are listed; their labels may differ.
        title: of the page.

    Raises:
        DataError: no run; a picture's maps differ in shape or hold undeclared values; the file cannot be written.
    """
    if not runs:
        raise DataError(f"{path}: expected at least one run to report, got none")
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    images: dict[str, str] = {}
    colours = _label_colours(runs)
    run_colours = itertools.cycle(RUN_COLOURS)
    views = [
        _run_view(
            run,
            UPPER_BOUND_COLOUR if run.is_upper_bound else next(run_colours),
            _upper_bound(run, runs),
            _picture_groups(run, colours, images),
        )
        for run in runs
    ]
    structures = dict.fromkeys(itertools.chain.from_iterable(view["structures"] for view in views))
    html = environment.get_template("report.html.jinja").render(
        title=title,
        runs=views,
        best=_best(views),
        upper_bounds=list(dict.fromkeys(view["upper_bound"] for view in views if view["difference"])),
        same_cases=len({frozenset(view["case_names"]) for view in views if view["cases"]}) <= 1,
        same_structures=len({frozenset(view["structures"]) for view in views if view["cases"]}) <= 1,
        structures=list(structures),
        label_colours=colours,
        background_colour=BACKGROUND_COLOUR,
        curves=_curves(views),
        images=images,
        recipes=_side_by_side([run.recipe for run in runs]),
        details=_side_by_side([run.details for run in runs]),
        max_pictures=MAX_PICTURES,
    )
    with atomically(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


def _run_view(
    run: RunSummary, colour: str, upper_bound: RunSummary | None, pictures: list[dict[str, Any]]
) -> dict[str, Any]:
    """What the template shows of a run."""
    cases = _cases(run.scores)
    trained = [record for record in run.metrics if record.get("event") == "train"]
    speeds = [record["images_per_second"] for record in trained if "images_per_second" in record]
    return {
        "name": run.name,
        "colour": colour,
        "is_upper_bound": run.is_upper_bound,
        "summary": {row["structure"]: row for row in summarise(run.scores)},
        "structures": _structures(run),
        "case_names": {case["name"] for case in cases},
        "cases": cases,
        "poor": sum(score.dice < 0.5 for score in run.scores),
        "masks": len(run.scores),
        "upper_bound": upper_bound and upper_bound.name,
        "difference": upper_bound and _difference(cases, _cases(upper_bound.scores)),
        "loss": _loss_curve(trained),
        "relabelled": _relabelled(run.metrics),
        "speed": float(np.median(speeds)) if speeds else None,
        "pictures": pictures,
        "more_pictures": max(0, len(run.pictures) - MAX_PICTURES),
    }


def _structures(run: RunSummary) -> list[str]:
    return list(dict.fromkeys(score.structure for score in run.scores))


def _upper_bound(run: RunSummary, runs: Sequence[RunSummary]) -> RunSummary | None:
    """The fully supervised run that was scored on the same structures: only their means compare."""
    if run.is_upper_bound or not run.scores:
        return None
    bounds = (other for other in runs if other.is_upper_bound and set(_structures(other)) == set(_structures(run)))
    return next(bounds, None)


# ------------------------------------------------------------------------------------------------------------ numbers


def _number(value: float | None, digits: int = 3, sign: bool = False) -> str:
    """A number for people: a dash where there is none, a real minus sign."""
    if value is None or np.isnan(value):
        return "–"
    return f"{round(value, digits) + 0.0:{'+' if sign else ''}.{digits}f}".replace("-", "−")  # + 0.0: no minus zero


def _cases(scores: Sequence[Score]) -> list[dict[str, Any]]:
    """Cases with their mean Dice, worst first."""
    by_case: dict[str, dict[str, Score]] = {}
    for score in scores:
        by_case.setdefault(score.case, {})[score.structure] = score
    cases = [
        {"name": name, "scores": by_structure, "dice": float(np.mean([s.dice for s in by_structure.values()]))}
        for name, by_structure in by_case.items()
    ]
    return sorted(cases, key=lambda case: (case["dice"], case["name"]))


def _difference(cases: list[dict[str, Any]], others: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Mean Dice minus the other run's over the cases that both have, with its paired interval."""
    other = {case["name"]: case["dice"] for case in others}
    both = sorted((case["name"], case["dice"]) for case in cases if case["name"] in other)
    if not both:
        return None
    mean, low, high = paired_interval([mine for _, mine in both], [other[name] for name, _ in both])
    return {"mean": mean, "low": low, "high": high, "cases": len(both)}


def _best(views: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The run with the highest mean Dice of those scored on most structures; not fully supervised, where there is one.

    The mean over more structures comes first: the mean Dice of whole tumours alone is no better for being higher.
    """
    scored = [view for view in views if view["cases"]]
    from_scribbles = [view for view in scored if not view["is_upper_bound"]]
    return max(
        from_scribbles or scored,
        key=lambda view: (len(view["structures"]), view["summary"]["mean"]["dice_mean"]),
        default=None,
    )


def _side_by_side(settings: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Nested settings of several runs as rows of dotted name and a value per run."""
    flat = [dict(_flatten(setting)) for setting in settings]
    rows = []
    for name in dict.fromkeys(itertools.chain.from_iterable(flat)):
        values = [setting.get(name, "–") for setting in flat]
        rows.append({"name": name, "values": values, "differs": len(set(values)) > 1})
    return rows


def _flatten(setting: Any, prefix: str = "") -> list[tuple[str, str]]:
    if isinstance(setting, Mapping) and (setting or not prefix):
        return [
            pair
            for key, value in setting.items()
            for pair in _flatten(value, f"{prefix}.{key}" if prefix else str(key))
        ]
    return [(prefix, str(setting))]


# ------------------------------------------------------------------------------------------------------------- curves


def _loss_curve(trained: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    """Iterations and losses, recursions end to end.

    A run that was resumed has recorded some iterations twice; the last record of each counts.
    """
    losses = {(r.get("recursion", 0), r["iteration"]): r["loss"] for r in trained if "iteration" in r and "loss" in r}
    keys = sorted(losses)
    iterations: list[float] = []
    offset = previous = 0.0
    for _, iteration in keys:
        if iterations and iteration <= previous:  # a recursion that counts from its own beginning
            offset = iterations[-1]
        previous = float(iteration)
        iterations.append(previous + offset)
    return iterations, [float(losses[key]) for key in keys]


def _relabelled(metrics: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """Shares labelled and changed, as (recursion, share); the last record of a recursion counts."""
    records = {r.get("recursion", 0): r for r in metrics if r.get("event") == "relabel"}
    return {
        share: [(recursion, float(r[share])) for recursion, r in sorted(records.items()) if r.get(share) is not None]
        for share in ("labelled", "changed")
    }


def _curves(views: list[dict[str, Any]]) -> Markup | None:
    """Loss per iteration, and the shares of pixels labelled and changed per recursion, of all runs."""
    panels = [
        name
        for name in ("loss", "labelled", "changed")
        if any(view["loss"][0] if name == "loss" else view["relabelled"][name] for view in views)
    ]
    if not panels:
        return None
    figure = Figure(figsize=(11, 2.9), layout="constrained")
    widths = [1.7 if name == "loss" else 1 for name in panels]
    all_axes = np.atleast_1d(figure.subplots(1, len(panels), width_ratios=widths))
    for name, axes in zip(panels, all_axes, strict=True):
        if name == "loss":
            _draw_losses(axes, views)
        else:
            _draw_shares(axes, name, views)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        _style(axes)
    return _svg(figure)


def _draw_losses(axes: Axes, views: list[dict[str, Any]]) -> None:
    """The losses in at most 500 means over equal parts of the run, pale, and in 50, for the trend."""
    for view in views:
        for points, width, alpha in ((500, 0.8, 0.3), (50, 1.6, 1.0)):
            x, y = (_binned(values, points) for values in view["loss"])
            axes.plot(x, y, color=view["colour"], linewidth=width, alpha=alpha)
    axes.set(title="Training loss", xlabel="iteration")
    if any(loss > 0 for view in views for loss in view["loss"][1]):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_locator(NullLocator())


def _binned(values: Sequence[float], bins: int) -> list[float]:
    return [float(np.mean(part)) for part in np.array_split(values, min(bins, len(values)))] if values else []


def _draw_shares(axes: Axes, share: str, views: list[dict[str, Any]]) -> None:
    for view in views:
        recursions = [recursion for recursion, _ in view["relabelled"][share]]
        values = [value for _, value in view["relabelled"][share]]
        axes.plot(recursions, values, color=view["colour"], marker="o", markersize=5)
    title = {"labelled": "Pixels with a label", "changed": "Pixels whose label changed"}[share]
    axes.set(title=title, xlabel="recursion (0: seeds)")
    axes.set_ylim(0, 1.02 if share == "labelled" else None)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def _style(axes: Axes) -> None:
    axes.title.set(color=INK, fontsize=10.5)
    axes.tick_params(which="both", colors=INK, labelsize=9)
    axes.xaxis.label.set(color=INK, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.grid(axis="y", color=INK, alpha=0.12)


def _svg(figure: Figure) -> Markup:
    """The figure as SVG to stand inside HTML: text stays text, in the page's own colour and font."""
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "scribbleseg"}):
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace("xlink:href", "href").replace(INK, "currentColor")
    svg = re.sub(r'<metadata>.*?</metadata>| xmlns(:\w+)?="[^"]*"| id="[a-z]\w*_\d+"', "", svg, flags=re.DOTALL)
    return Markup(re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*"', r"\1", svg, count=1))


# ----------------------------------------------------------------------------------------------------------- pictures


def _label_colours(runs: Sequence[RunSummary]) -> dict[str, str]:
    """A colour for each label, by its name: the same all over the page, whatever its value in each run."""
    names = dict.fromkeys(itertools.chain.from_iterable(run.label_names[1:] for run in runs))
    return dict(zip(names, itertools.cycle(STRUCTURE_COLOURS), strict=False))


def _picture_groups(run: RunSummary, colours: Mapping[str, str], images: dict[str, str]) -> list[dict[str, Any]]:
    """Figures of one slice each, their images added to `images` by id.

    Pictures stand under each other by recursion, layers side by side; what stays the same is shown once.
    """
    figures: dict[tuple[str, int, str], list[Picture]] = {}
    for picture in run.pictures[:MAX_PICTURES]:
        _check(picture, len(run.label_names))
        figures.setdefault((picture.case, picture.slice_index, picture.title), []).append(picture)
    palette = [BACKGROUND_COLOUR, *(colours[name] for name in run.label_names[1:])]
    groups = []
    for (case, slice_index, title), group in figures.items():
        group.sort(key=lambda picture: -1 if picture.recursion is None else picture.recursion)
        layers = [layer for layer in LAYERS if any(getattr(picture, layer) is not None for picture in group)]
        box = _box(group)
        image = _embed(group[0].image, box, images)
        rows = []
        for picture, above in zip(group, [None, *group], strict=False):
            tiles = [
                _tile(picture, layer, box, palette) if _is_new(picture, above, layer) else None for layer in layers
            ]
            rows.append({"recursion": picture.recursion, "dice": _slice_dice(picture, run.label_names), "tiles": tiles})
        height, width = (edge.stop - edge.start for edge in box)
        groups.append(
            {"case": case, "slice": slice_index, "title": title, "layers": [LAYERS[layer][0] for layer in layers]}
            | {"rows": rows, "width": width, "height": height, "image": image}
        )
    return groups


def _check(picture: Picture, n_labels: int) -> None:
    for layer in LAYERS:
        labels = getattr(picture, layer)
        where = f"picture of case {picture.case}, slice {picture.slice_index}, {layer}: "
        if labels is None:
            continue
        if labels.shape != picture.image.shape:
            raise DataError(f"{where}expected the image's shape {picture.image.shape}, got {labels.shape}")
        if layer != "image" and (unknown := np.unique(labels[(labels >= n_labels) & (labels != UNLABELLED)])).size:
            raise DataError(f"{where}expected values 0 to {n_labels - 1} or {UNLABELLED}, got {unknown.tolist()}")


def _is_new(picture: Picture, above: Picture | None, layer: str) -> bool:
    labels = getattr(picture, layer)
    if labels is None:
        return False
    changes = layer in ("pseudo_labels", "prediction")
    return above is None or changes or not np.array_equal(labels, getattr(above, layer))


def _slice_dice(picture: Picture, label_names: Sequence[str]) -> dict[str, float]:
    """Dice of this one slice, of the structures that are in it, where both maps are there and complete."""
    labels, reference = picture.prediction, picture.reference
    if labels is None or reference is None or UNLABELLED in labels or UNLABELLED in reference:
        return {}
    seen = {label_names[value]: (int(value),) for value in np.union1d(labels, reference) if value}
    return dice(labels, reference, seen)


def _box(group: Sequence[Picture]) -> tuple[slice, slice]:
    """The part of a slice that is worth showing: every structure in any of its maps, with a margin around them."""
    shape = group[0].image.shape
    inside = np.zeros(shape, bool)
    for picture in group:
        for layer in list(LAYERS)[1:]:
            labels = getattr(picture, layer)
            if labels is not None:
                inside |= (labels > 0) & (labels != UNLABELLED)
    rows, columns = np.nonzero(inside)
    if not len(rows):
        return slice(0, shape[0]), slice(0, shape[1])
    side = 1.35 * max(np.ptp(rows), np.ptp(columns)) + 8  # a square, so that tiles line up
    edges = [(edge.min() + edge.max() + 1) / 2 + np.array([-side, side]) / 2 for edge in (rows, columns)]
    (top, bottom), (left, right) = (np.clip(np.round(e), 0, n).astype(int) for e, n in zip(edges, shape, strict=True))
    return slice(int(top), int(bottom)), slice(int(left), int(right))


def _embed(image: Float[np.ndarray, "height width"], box: tuple[slice, slice], images: dict[str, str]) -> str:
    """Add an image to those of the page, once, and return its id."""
    image = np.nan_to_num(image, posinf=0, neginf=0)
    low, high = np.percentile(image, (1, 99))
    grey = np.clip((image[box] - low) / max(high - low, 1e-12), 0, 1) * 255
    buffer = io.BytesIO()
    PillowImage.fromarray(grey.astype(np.uint8)).save(buffer, "JPEG", quality=90)
    uri = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    name = f"image-{hashlib.sha256(buffer.getvalue()).hexdigest()[:16]}"  # several runs show the same slice
    images[name] = uri
    return name


def _tile(picture: Picture, layer: str, box: tuple[slice, slice], palette: Sequence[str]) -> dict[str, Any]:
    """One label map over the image: a palette PNG of its own pixels, and the reference's contours."""
    title, opacity, background, contours = LAYERS[layer]
    tile: dict[str, Any] = {"title": title, "overlay": None, "contours": []}
    if layer == "image":
        return tile
    tile["overlay"] = _overlay(getattr(picture, layer)[box], palette, opacity, background)
    if contours and picture.reference is not None:
        reference = picture.reference[box]
        tile["contours"] = [_contour(reference == v) for v in np.unique(reference) if v not in (0, UNLABELLED)]
    return tile


def _overlay(
    labels: UInt8[np.ndarray, "height width"], palette: Sequence[str], opacity: float, background: bool
) -> str:
    """A label map as a data URI: labels in their colours, background faint or clear, UNLABELLED clear."""
    colours = [*palette, *([BACKGROUND_COLOUR] * (256 - len(palette)))]
    alpha = [opacity / 2 if background else 0.0, *([opacity] * 254), 0.0]
    if opacity == 1 and background:
        alpha[0] = 1.0  # strokes are thin: show all of them as they are
    image = PillowImage.fromarray(np.ascontiguousarray(labels))
    image.putpalette(bytes(int(colour[i : i + 2], 16) for colour in colours for i in (1, 3, 5)))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=bytes(round(255 * a) for a in alpha), optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _contour(mask: Bool[np.ndarray, "height width"]) -> str:
    """The outline of a mask as an SVG path; pixel (0, 0) covers [0, 1] x [0, 1]."""
    lines = find_contours(np.pad(mask, 1).astype(float), 0.5)
    return "".join("M" + "L".join(f"{x - 0.5:.1f} {y - 0.5:.1f}" for y, x in line) + "Z" for line in lines)
