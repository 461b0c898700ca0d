"""Scores of a segmentation against its reference mask: overlap, surface distances and volume, per case and structure.

Everything is measured in 3-D on the native grid, in millimetres; in pixels where pictures have no scale. A structure is
a set of label values, so that regions that contain each other (a whole tumour and its core) are scored from one label
map. Empty masks follow one rule, chosen so that nobody gets a better distance or precision by predicting nothing:

| prediction | reference | Dice, recall, precision | HD95, ASSD | counted as |
|---|---|---|---|---|
| empty | empty | 1 | 0 | a right answer (the BraTS challenges' rule) |
| empty | not | 0 | NaN | `missed` |
| not | empty | 0 | NaN | `invented` |

So Dice is 0 where recall and precision are, and their harmonic mean everywhere else. A mean distance leaves the NaNs
out, so a summary always states next to it how many masks were missed or invented.
"""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy.typing import ArrayLike
from scipy.stats import bootstrap

from scribbleseg.data.orientation import thick_axis
from scribbleseg.evaluation.surfaces import surface_distances
from scribbleseg.files import atomically, parsed
from scribbleseg.types import UNLABELLED, DataError

MEASURES = ("dice", "recall", "precision", "hd95_mm", "assd_mm", "volume_error_ml", "empty_slices_ml")
"""The fields of `Score` that a summary averages."""

TABLE = (
    ("Dice", "dice_mean", 3),
    ("recall", "recall_mean", 3),
    ("precision", "precision_mean", 3),
    ("HD95 mm", "hd95_mm_mean", 1),
    ("ASSD mm", "assd_mm_mean", 2),
    ("volume error ml", "volume_error_ml_mean", 1),
    ("in empty slices ml", "empty_slices_ml_mean", 1),
    ("missed", "missed", 0),
    ("invented", "invented", 0),
)
"""The columns of printed scores: title, key in the rows of `summarise`, decimals."""

DISTANCES = frozenset({"hd95_mm_mean", "assd_mm_mean"})
"""The columns that leave out cases in which one of the masks is empty."""


@dataclass(frozen=True)
class Score:
    """The scores of one structure in one case.

    Args:
        case: the case's name.
        structure: the structure's name.
        dice: the Dice coefficient (Dice 1945), 0 to 1.
        recall: the share of the reference that the prediction has (sensitivity), 0 to 1.
        precision: the share of the prediction that the reference has (positive predictive value), 0 to 1.
        hd95_mm: 95th percentile Hausdorff distance: the larger of the two directions' percentiles.
        assd_mm: average symmetric surface distance: the mean over the surface voxels of both masks together.
        volume_ml: the prediction's volume.
        reference_volume_ml: the reference's volume.
        volume_error_ml: the prediction's volume minus the reference's.
        empty_slices_ml: the prediction's volume in slices of which the reference has nothing; slices lie across the
            axis along which voxels are much longer, or else the first.
        in_pixels: whether the case is a picture without a scale: distances and volumes are numbers of pixels then.
    """

    case: str
    structure: str
    dice: float
    recall: float
    precision: float
    hd95_mm: float
    assd_mm: float
    volume_ml: float
    reference_volume_ml: float
    volume_error_ml: float
    empty_slices_ml: float
    in_pixels: bool = False

    @property
    def auxiliary(self) -> bool:
        """Whether means over structures leave it out: a region that ends in *, of a network before a merge."""
        return self.structure.endswith("*")

    @property
    def missed(self) -> bool:
        """Whether the reference has the structure and the prediction has not a voxel of it."""
        return self.volume_ml == 0 < self.reference_volume_ml

    @property
    def invented(self) -> bool:
        """Whether the prediction has the structure and the reference has not a voxel of it."""
        return self.reference_volume_ml == 0 < self.volume_ml


class Scores(tuple[Score, ...]):
    """The scores of several cases and structures; printed, they are a table of means."""

    @property
    def by_structure(self) -> dict[str, float]:
        """The mean Dice over cases of each structure, without the mean over structures."""
        return {row["structure"]: row["dice_mean"] for row in summarise(self)[:-1]}

    def __str__(self) -> str:
        """A plain-text table of means over cases, one line for each structure and one for their mean."""
        if not self:
            return "Nothing was scored."
        lines = [["structure", *titles(self)]]
        for row in summarise(self):
            numbers = ("-" if np.isnan(row[key]) else f"{row[key]:.{digits}f}" for _, key, digits in TABLE)
            lines.append([row["structure"], *numbers])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join([name.ljust(widths[0]), *(n.rjust(w) for n, w in zip(numbers, widths[1:], strict=True))])
            for name, *numbers in lines
        )


def titles(scores: Sequence[Score]) -> list[str]:
    """The titles of TABLE with the units of these scores: pixels where cases are pictures without a scale."""
    if {score.in_pixels for score in scores} == {True, False}:
        return [re.sub("( m[ml])$", r"\1 or px", title) for title, _, _ in TABLE]
    return [_in_pixels(title) if scores and scores[0].in_pixels else title for title, _, _ in TABLE]


def dice(
    labels: UInt8[np.ndarray, "..."], reference: UInt8[np.ndarray, "..."], regions: Mapping[str, tuple[int, ...]]
) -> dict[str, float]:
    """The Dice coefficient 2 |A and B| / (|A| + |B|) of every region; 1 where both masks are empty.

    Args:
        labels: the prediction, of any shape.
        reference: the reference mask, of the same shape; voxels that are UNLABELLED in it are left out.
        regions: what is scored, by name: the label values that it is made of; `Dataset.scored`.

    Raises:
        DataError: the shapes differ, the prediction holds UNLABELLED, or either map another value that is in no region
            and not 0.
    """
    labels, reference = _known(labels, reference)
    _check(labels, reference, regions)
    return {name: _overlap(_among(labels, v), _among(reference, v))[0] for name, v in regions.items()}


def score(
    case: str,
    labels: UInt8[np.ndarray, "..."],
    reference: UInt8[np.ndarray, "..."],
    spacing_mm: tuple[float, float, float],
    regions: Mapping[str, tuple[int, ...]],
    in_pixels: bool = False,
) -> list[Score]:
    """The scores of every region of one case, measured on the native grid.

    A volume of one slice is measured in its plane: in 3-D each of its voxels would count as surface.

    Args:
        case: the case's name, for the scores and for messages.
        labels: the prediction, `depth height width`.
        reference: the reference mask, of the same shape; voxels that are UNLABELLED in it are left out.
        spacing_mm: voxel size along depth, height, width.
        regions: what is scored, by name: the label values that it is made of; `Dataset.scored`.
        in_pixels: whether the case has no scale (`orientation.is_picture`), so that a pixel is the unit.

    Raises:
        DataError: the same as in `dice`; the maps are not 3-D, or the spacing is not three positive numbers.
    """
    labels, reference = _known(labels, reference)
    _check(labels, reference, regions, f"case {case}: ")
    if labels.ndim != 3 or len(spacing_mm) != 3 or not all(0 < size < float("inf") for size in spacing_mm):
        raise DataError(
            f"case {case}: expected a (depth, height, width) map and three positive voxel sizes in mm, got shape "
            f"{labels.shape} and spacing {spacing_mm}; give a picture a depth of 1, and check the file's header"
        )
    voxel_ml = 1.0 if in_pixels else float(np.prod(spacing_mm)) / 1000
    scores = []
    for name, values in regions.items():
        a, b = _among(labels, values), _among(reference, values)
        distances = surface_distances(a, b, spacing_mm)
        found, there = (np.moveaxis(mask, thick_axis(spacing_mm) or 0, 0) for mask in (a, b))
        scores.append(Score(case, name, *_overlap(a, b), *distances, *_volumes_ml(found, there, voxel_ml), in_pixels))
    return scores


def summarise(scores: Sequence[Score]) -> list[dict[str, Any]]:
    """The mean, sample standard deviation and median over cases: a row for each structure, and one named "mean".

    The "mean" row takes the mean over the structures of each case first, so its standard deviation is between cases; it
    leaves out regions that are `auxiliary`;
    a case with a NaN distance in any structure has no mean distance.

    Returns:
        Rows with `structure`, `cases`, `missed` and `invented` (numbers of masks), `distances` (how many cases the
        distances are taken over) and `<measure>_mean`, `_std`, `_median` for each of MEASURES, NaN where undefined.
    """
    if not scores:
        return []
    structures = list(dict.fromkeys(score.structure for score in scores))
    cases = list(dict.fromkeys(score.case for score in scores))
    groups: list[tuple[str, list[Score]]] = [(name, [s for s in scores if s.structure == name]) for name in structures]
    rows = []
    for name, group in groups:
        values = {measure: np.array([getattr(s, measure) for s in group]) for measure in MEASURES}
        rows.append(_summary_row(name, group, values))
    main = [score for score in scores if not score.auxiliary]
    values = {
        measure: np.array([np.mean([getattr(s, measure) for s in main if s.case == case]) for case in cases])
        for measure in MEASURES
    }
    return [*rows, _summary_row("mean", main, values)]


def paired_interval(a: ArrayLike, b: ArrayLike, seed: int = 0) -> tuple[float, float, float]:
    """The mean of `a - b` over cases with its 95 % interval, for two methods that were scored on the same cases.

    The interval is a bootstrap over cases, bias-corrected and accelerated (Efron 1987,
    doi:10.1080/01621459.1987.10478410), of 9999 resamples. It covers the choice of new cases from the same source, not
    the choice of another random seed for training.

    Args:
        a: one number for each case, such as its Dice.
        b: the other method's numbers, in the same order of cases.
        seed: the random seed of the resampling.

    Returns:
        `(mean difference, low, high)`; low and high are NaN for fewer than two cases, all are NaN if any input is.

    Raises:
        DataError: `a` and `b` have different numbers of cases, or none.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape or a.ndim != 1 or len(a) == 0:
        raise DataError(f"expected the same cases in both methods, got {a.size} and {b.size}; score both on one list")
    differences = a - b
    mean = float(differences.mean())
    if len(differences) < 2 or np.isnan(mean):
        return mean, float("nan"), float("nan")
    if np.ptp(differences) == 0:  # every resample is the same: no bootstrap distribution to correct
        return mean, mean, mean
    interval = bootstrap((differences,), np.mean, random_state=np.random.default_rng(seed)).confidence_interval
    return mean, float(interval.low), float(interval.high)


def write_scores(scores: Sequence[Score], folder: Path) -> None:
    """Writes `summary.csv`, `summary.json`, `scores.csv` and `scores.json`; NaN is an empty cell, or null.

    `scores.json`, by which `read_scores` knows that all is there, comes last. Where all cases are pictures without a
    scale, the columns in mm and ml are called `_px`.

    Raises:
        DataError: the folder cannot be written to, or the disk is full; no file is left half-written.
    """
    rows = [asdict(s) | {"missed": s.missed, "invented": s.invented} for s in scores]
    columns = [*(f.name for f in fields(Score)), "missed", "invented"]
    summary = summarise(scores)
    named = _in_pixels if all(score.in_pixels for score in scores) else str
    for name, table, header in (("summary", summary, list(summary[0]) if summary else []), ("scores", rows, columns)):
        table = [
            {named(k): None if isinstance(v, float) and np.isnan(v) else v for k, v in row.items()} for row in table
        ]
        header = [named(name) for name in header]
        text = io.StringIO()
        writer = csv.DictWriter(text, header, lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
        with atomically(folder / f"{name}.csv") as path:
            path.write_text(text.getvalue(), encoding="utf-8")
        with atomically(folder / f"{name}.json") as path:
            path.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _in_pixels(column: str) -> str:
    """The name of a column in mm or ml where pixels are the unit."""
    return re.sub("[_ ]m[ml](?=_|$)", lambda unit: unit[0][0] + "px", column)


def read_scores(path: Path) -> list[Score] | None:
    """Reads the scores in a `scores.json` that `write_scores` wrote.

    Returns:
        The scores, or None where there is no such file, or one of an earlier version that measured less: the cases have
        to be scored again.

    Raises:
        DataError: the file holds something else.
    """
    if not path.exists():
        return None
    try:
        in_file = {_in_pixels(f.name): f.name for f in fields(Score)}
        rows = [{in_file.get(name, name): v for name, v in row.items()} for row in parsed(path.read_text("utf-8"))]
        if any(f.name not in row for row in rows for f in fields(Score)):
            return None
        kinds: dict[str, Any] = {f.name: f.type for f in fields(Score)}
        plain = [{k: float("nan") if row[k] is None else kind(row[k]) for k, kind in kinds.items()} for row in rows]
        return [Score(**row) for row in plain]  # type: ignore[arg-type]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: expected the scores that `scribbleseg evaluate` writes, got {error!r}; run it again"
        ) from error


def _known(labels: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both maps, background where the reference does not know."""
    if labels.shape != reference.shape or not (unknown := reference == UNLABELLED).any():
        return labels, reference
    return np.where(unknown, 0, labels), np.where(unknown, 0, reference)


def _check(labels: np.ndarray, reference: np.ndarray, regions: Mapping[str, tuple[int, ...]], where: str = "") -> None:
    """Raises DataError for maps of different shapes, or with values that no region declares."""
    if labels.shape != reference.shape:
        raise DataError(
            f"{where}expected a prediction of the reference's shape {reference.shape}, got {labels.shape}; "
            "compare on the image's own grid, the one `scribbleseg predict` writes"
        )
    known = sorted({0}.union(*regions.values()))
    for what, map_ in (("prediction", labels), ("reference", reference)):
        unknown = np.setdiff1d(map_, known).tolist()
        if unknown:
            hint = "it must label every voxel" if UNLABELLED in unknown else "declare what they mean, or relabel it"
            raise DataError(
                f"{where}expected the values {', '.join(map(str, known))} (background, {', '.join(regions)}) in the "
                f"{what}, got {', '.join(f'{v} (unlabelled)' if v == UNLABELLED else str(v) for v in unknown)}; {hint}"
            )


def _among(labels: UInt8[np.ndarray, "*space"], values: Sequence[int]) -> Bool[np.ndarray, "*space"]:
    """Where the labels are among these values, at a byte a voxel."""
    table = np.zeros(256, bool)
    table[list(values)] = True
    return table[labels]


def _overlap(a: Bool[np.ndarray, "..."], b: Bool[np.ndarray, "..."]) -> tuple[float, float, float]:
    """Dice, recall and precision of `a` against reference `b`; see this module's table where a mask is empty."""
    both, of_a, of_b = int((a & b).sum()), int(a.sum()), int(b.sum())
    if of_a == of_b == 0:
        return 1.0, 1.0, 1.0
    return 2 * both / (of_a + of_b), both / max(of_b, 1), both / max(of_a, 1)


def _volumes_ml(
    a: Bool[np.ndarray, "depth height width"], b: Bool[np.ndarray, "depth height width"], voxel_ml: float
) -> tuple[float, float, float, float]:
    """The volumes of `a` and of reference `b`, their difference, and that of `a` in slices without any of `b`."""
    of_a, of_b = int(a.sum()) * voxel_ml, int(b.sum()) * voxel_ml
    in_empty_slices = int(a[~b.any(axis=(1, 2))].sum()) * voxel_ml
    return of_a, of_b, of_a - of_b, in_empty_slices


def _summary_row(name: str, scores: Sequence[Score], values: dict[str, Float[np.ndarray, " case"]]) -> dict[str, Any]:
    """A row of `summarise`, from the scores that it counts and from the values of each measure that it averages."""
    row: dict[str, Any] = {
        "structure": name,
        "cases": len(values["dice"]),
        "missed": sum(s.missed for s in scores),
        "invented": sum(s.invented for s in scores),
        "distances": int(np.isfinite(values["hd95_mm"]).sum()),
    }
    for measure, each in values.items():
        known = each[~np.isnan(each)]
        row[f"{measure}_mean"] = float(known.mean()) if len(known) else float("nan")
        row[f"{measure}_std"] = float(known.std(ddof=1)) if len(known) > 1 else float("nan")
        row[f"{measure}_median"] = float(np.median(known)) if len(known) else float("nan")
    return row
