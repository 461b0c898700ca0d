"""Ranks slices by how much strokes should help there, from what a network makes of each case; needs no network itself.

A slice is worth the area that the network expects to get wrong in it, as a share of the usual area of the structure.
Strokes settle the doubt of their own slice, and less and less of that of its neighbours; next comes the slice that
settles most of what strokes and the slices further up the list have left.

That is the greedy choice for a facility location problem, which is monotone and submodular: it settles at least 1 - 1/e
of what the best choice of as many slices would (Nemhauser et al. 1978, doi:10.1007/BF01588971). Reach and floor are
ours; docs/LOG.md has what they are worth.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

REACH = 0.25
"""How far strokes settle doubt through a stack, as a share of the usual length of all structures along it."""

FLOOR = 0.02
"""What every slice is worth besides its doubt, as a share of a structure's area: where nothing is in doubt, the slices
farthest from all strokes come first."""

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
        help: the doubt that strokes there should settle, in this slice and around it: a number of structures of the
            area that they usually have in a slice.
        structure: the structure that most of it is about; "" where nothing is in doubt.
        why: the reason in words, for people.
    """

    stack: Stack
    slice: int
    help: float
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
    reach_mm = REACH * _usual_length_mm(ordered)
    piles = [_Pile(each, worth, reach_mm) for each, worth in zip(ordered, _worth(ordered), strict=True)]
    found: list[Suggestion] = []
    while len(found) < count and piles:
        best = max(piles, key=lambda pile: pile.best)  # the first of those that are equal
        if best.best < 0:
            break
        found.append(best.take(label_names))
    return found


def _usual_length_mm(looks: Sequence[Look]) -> float:
    """The median length of all structures along the stack; that of the stack where none is found in any case."""
    found = [float(np.count_nonzero(each.area.any(axis=0))) * each.stack.spacing_mm for each in looks]
    lengths = [length for length in found if length] or [each.stack.slices * each.stack.spacing_mm for each in looks]
    return float(np.median(lengths)) if lengths else 0.0


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


class _Pile:
    """The slices of a case, of which the best is taken again and again.

    Attributes:
        best: what strokes in the best slice would settle; -1 where all slices have strokes.
    """

    def __init__(self, seen: Look, worth: Float64[np.ndarray, "structure slice"], reach_mm: float) -> None:
        self.look, self.worth = seen, worth
        places = np.arange(seen.stack.slices) * seen.stack.spacing_mm
        away_mm = np.abs(places[:, None] - places)
        self.settles = np.maximum(0, 1 - away_mm / reach_mm) if reach_mm else np.equal(away_mm, 0).astype(float)
        self.settled = self.settles[seen.drawn].max(axis=0, initial=0)
        self.taken = seen.drawn.copy()
        self._update()

    def take(self, label_names: Sequence[str]) -> Suggestion:
        """The best slice, which counts as drawn from now on."""
        z, helps = int(self.helps.argmax()), self.best
        more = np.maximum(0, self.settles[z] - self.settled)
        by_structure = self.worth @ more
        about = int(by_structure.argmax())
        structure = label_names[about + 1] if by_structure[about] > 0 else ""
        why = self._why(z, about, structure)
        self.settled, self.taken[z] = np.maximum(self.settled, self.settles[z]), True
        self._update()
        return Suggestion(self.look.stack, z, helps, structure, why)

    def _update(self) -> None:
        """What each slice would settle, beyond what is settled."""
        value = FLOOR + self.worth.sum(axis=0)
        more = np.maximum(0, self.settles - self.settled)
        self.helps = np.where(self.taken, -1.0, more @ value)
        self.best = float(self.helps.max(initial=-1.0))

    def _why(self, z: int, about: int, structure: str) -> str:
        """The reason in words."""
        drawn = np.flatnonzero(self.look.drawn)
        if not drawn.size:
            strokes = "no strokes in this case"
        else:
            away = int(np.abs(drawn - z).min())
            strokes = f"the nearest strokes are {away} slice{'' if away == 1 else 's'} away"
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
