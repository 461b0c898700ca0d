"""The report's curves, as inline SVG: the training loss, and what is known of each recursion without any mask."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, PercentFormatter, StrMethodFormatter

INK = "#010203"
"""The placeholder for the page's text colour in a figure: readers choose between light and dark."""

TITLES = {
    "labelled": "Pixels with a label",
    "changed": "Pixels whose label changed",
    "agreement": "Agreement with held-out scribbles",
}
"""The values by recursion, and the titles of their panels."""


def loss_curve(trained: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    """Iterations and losses of a run, its recursions one after the other.

    A run that was resumed has recorded some iterations twice; the last record of each counts.

    Args:
        trained: the records of the event "train".
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


def by_recursion(metrics: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """The shares of pixels labelled and changed, and the agreement with held-out scribbles: each by recursion.

    Args:
        metrics: the run's records, of which those of the events "relabel" and "agreement" count, the last one of each
            recursion.
    """
    records = {r.get("recursion", 0): r for r in metrics if r.get("event") == "relabel"}
    agreed = {r.get("recursion", 0): float(r["mean"]) for r in metrics if r.get("event") == "agreement"}
    shares = {
        share: [(recursion, float(r[share])) for recursion, r in sorted(records.items()) if r.get(share) is not None]
        for share in ("labelled", "changed")
    }
    return {**shares, "agreement": sorted(agreed.items())}


def draw_curves(views: list[dict[str, Any]]) -> list[Markup]:
    """The training loss by iteration, and what is known of each recursion without any mask, of all runs.

    Args:
        views: for each run its "colour", its `loss_curve` as "loss" and its values `by_recursion`.

    Returns:
        An SVG element for each of these of which there is something to draw: side by side on wide screens, one below
        the other on narrow ones.
    """
    return [
        _panel(name, views)
        for name in ("loss", *TITLES)
        if any(view["loss"][0] if name == "loss" else view["by_recursion"][name] for view in views)
    ]


def _panel(name: str, views: list[dict[str, Any]]) -> Markup:
    figure = Figure(figsize=(4.2, 2.7), layout="constrained")
    axes = figure.subplots()
    if name == "loss":
        _draw_losses(axes, views)
    else:
        _draw_shares(axes, name, views)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    _style(axes)
    return _svg(figure, TITLES.get(name, "Training loss"))


def _draw_losses(axes: Axes, views: list[dict[str, Any]]) -> None:
    """Draws the losses twice: as at most 500 means over equal parts of the run, pale, and as 50, for the trend."""
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
        recursions = [recursion for recursion, _ in view["by_recursion"][share]]
        values = [value for _, value in view["by_recursion"][share]]
        axes.plot(recursions, values, color=view["colour"], marker="o", markersize=5)
    axes.set(title=TITLES[share], xlabel="recursion (0: seeds)")
    axes.set_ylim(0, None if share == "changed" else 1.02)
    last = max(recursion for view in views for recursion, _ in view["by_recursion"][share])
    axes.set_xlim(-0.3, max(last, 1) + 0.3)
    if share != "agreement":
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def _style(axes: Axes) -> None:
    axes.title.set(color=INK, fontsize=10.5)
    axes.tick_params(which="both", colors=INK, labelsize=9)
    axes.xaxis.label.set(color=INK, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.grid(axis="y", color=INK, alpha=0.12)


def _svg(figure: Figure, title: str) -> Markup:
    """The figure as an SVG element for an HTML page: text stays text, in the page's own colour and font."""
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "scribbleseg"}):
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace("xlink:href", "href").replace(INK, "currentColor")
    svg = re.sub(r'<metadata>.*?</metadata>| xmlns(:\w+)?="[^"]*"| id="[a-z]\w*_\d+"', "", svg, flags=re.DOTALL)
    svg = re.sub(r' (?:width|height)="[^"]*"', "", svg[: svg.index(">")]) + svg[svg.index(">") :]
    return Markup(svg.replace("<svg", f'<svg role="img" aria-label="{title}"', 1))
