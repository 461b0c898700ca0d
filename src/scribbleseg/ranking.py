"""Ranks slices by how much strokes should help there: evenly spaced ones, of the cases most in doubt first.

Next comes a case with the fewest drawn slices, and in it the slice in the middle of the widest gap between drawn ones.
Of several such cases, the one comes first whose gap the network is most in doubt about. It needs no network itself.

Doubt does not choose the slice: slices that it chose, spread by the greedy solution of a facility location problem, did
not beat evenly spaced ones (docs/LOG.md).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float64

from scribbleseg.plural import number_of

MOST_CASES = 0.5
"""A structure that is found in at least so large a share of the cases is missed where it is not found at all."""


@dataclass(frozen=True)
class Stack:
    """The slices of a case, which count as they are stored.

    Args:
        case: the name of the case.
        slices: their number.
        axis: the axis of the stored array `depth height width` that they are stacked along: 0, 1 or 2.
        plane: "axial", "coronal" or "sagittal"; "" for pictures, and "stored" where nobody knows.
        spacing_mm: the distance of two slices, in `unit`.
        unit: what lengths are measured in, "mm" or "px".
    """

    case: str
    slices: int
    axis: int
    plane: str
    spacing_mm: float
    unit: str


@dataclass(frozen=True)
class Suggestion:
    """A slice in which strokes should help.

    Args:
        stack: the slices of its case.
        slice: its index, from 0, along `stack.axis` of the stored array.
        doubt: what the network is in doubt about in this slice and the others of its gap between drawn slices: a number
            of structures of the area that they usually have in a slice.
        structure: the structure that most of it is about; "" where nothing is in doubt.
        why: the reason in words, for people.
    """

    stack: Stack
    slice: int
    doubt: float
    structure: str
    why: str

    @property
    def case(self) -> str:
        """The name of the case."""
        return self.stack.case


@dataclass(frozen=True, eq=False)
class Look:
    """What a network makes of a case, slice by slice; `structure` is every label but background.

    Args:
        stack: the slices.
        doubt: the area that the network expects to get wrong, in mm^2, by the structure that is likeliest there:
            the sum of 1 - the probability of the likeliest label. Borders are part of it, although no network is sure
            of them: without what is near them, it followed the error of a slice less well.
        area: the area of each structure in the segmentation, in mm^2.
        likely: the sum of each structure's probability over the slice, in mm^2.
        drawn: which slices have strokes.
        present: the labels of the structures known to be in the case, or None where nobody said.
    """

    stack: Stack
    doubt: Float64[np.ndarray, "structure slice"]
    area: Float64[np.ndarray, "structure slice"]
    likely: Float64[np.ndarray, "structure slice"]
    drawn: Bool[np.ndarray, " slice"]
    present: frozenset[int] | None = None


def rank(looks: Iterable[Look], label_names: Sequence[str], count: int = 20) -> list[Suggestion]:
    """The ranking of `suggest`, from what a network makes of each case. Quick: call it again whenever strokes change.

    Args:
        looks: those of all cases.
        label_names: the labels by value, background first.
        count: the number of slices, at most.
    """
    ordered = sorted(looks, key=lambda each: each.stack.case)  # so that sums and ties depend on no order
    piles = [_Pile(each, worth) for each, worth in zip(ordered, _worth(ordered), strict=True)]
    found: list[Suggestion] = []
    while len(found) < count and (left := [pile for pile in piles if not pile.taken.all()]):
        fewest = min(np.count_nonzero(pile.taken) for pile in left)
        alike = [pile for pile in left if np.count_nonzero(pile.taken) == fewest]
        found.append(max(alike, key=lambda pile: pile.doubt).take(label_names))  # the first of those that are equal
    return found


def widest_gap(drawn: Bool[np.ndarray, " slice"]) -> range:
    """The slices of the widest gap between drawn ones, the first of several; empty where all are drawn."""
    ends = [-1, *np.flatnonzero(drawn).tolist(), len(drawn)]
    return max((range(before + 1, after) for before, after in pairwise(ends)), key=len)


def _worth(looks: Sequence[Look]) -> list[Float64[np.ndarray, "structure slice"]]:
    """What is in doubt about each structure in each slice, 1 being the usual area of the structure in a slice.

    In a case in which a structure is missed, each slice is also worth its probability there, the largest being 1.
    """
    areas = np.concatenate([each.area for each in looks], axis=1) if looks else np.zeros((0, 0))
    with np.errstate(invalid="ignore"):
        usual = areas.sum(axis=1) / (areas > 0).sum(axis=1)  # NaN where a structure is found nowhere
    share = np.mean([each.area.any(axis=1) for each in looks], axis=0) if looks else np.zeros(0)
    worth = []
    for each in looks:
        value = np.nan_to_num(each.doubt / usual[:, None])
        for index in range(len(value)):
            expected = share[index] >= MOST_CASES if each.present is None else index + 1 in each.present
            peak = each.likely[index].max()
            if expected and not each.area[index].any() and peak > 0:
                value[index] += each.likely[index] / peak
        worth.append(value)
    return worth


def middle(gap: range) -> int:
    """The slice in the middle of a gap, the first of two."""
    return gap[(len(gap) - 1) // 2]


class _Pile:
    """The slices of a case, of which the middle of the widest gap is taken again and again.

    Attributes:
        taken: the slices that are drawn or taken.
        gap: the widest gap between them.
        doubt: what is in doubt in it.
    """

    def __init__(self, seen: Look, worth: Float64[np.ndarray, "structure slice"]) -> None:
        self.look, self.worth = seen, worth
        self.taken = seen.drawn.copy()
        self._update()

    def take(self, label_names: Sequence[str]) -> Suggestion:
        """The slice in the middle of the widest gap, which counts as drawn from now on."""
        z, doubt = middle(self.gap), self.doubt
        by_structure = self.worth[:, self.gap].sum(axis=1)
        about = int(by_structure.argmax())
        structure = label_names[about + 1] if by_structure[about] > 0 else ""
        why = self._why(z, about, structure)
        self.taken[z] = True
        self._update()
        return Suggestion(self.look.stack, z, doubt, structure, why)

    def _update(self) -> None:
        self.gap = widest_gap(self.taken)
        self.doubt = float(self.worth[:, self.gap].sum())

    def _why(self, z: int, about: int, structure: str) -> str:
        """The reason in words."""
        drawn = np.flatnonzero(self.look.drawn)
        if not drawn.size:
            strokes = "no strokes in this case"
        else:
            away = int(np.abs(drawn - z).min())
            strokes = f"the nearest strokes are {number_of(away, 'slice')} away"
        if not structure:
            return f"nothing left in doubt; {strokes}"
        if not self.look.area[about].any():
            return f"{structure} is found in no slice of this case; {strokes}"
        area = float(self.look.doubt[about, z])
        where = _in_words(area, self.look.stack.unit) if area else "in slices around this one"
        return f"{structure} in doubt, {where}; {strokes}"


def _in_words(area: float, unit: str) -> str:
    """An area, to two digits: "85 mm²", "3.4 cm²"."""
    size, unit = (area / 100, "cm") if unit == "mm" and area >= 100 else (area, unit)
    return f"{float(f'{size:.2g}'):g} {unit}²"
