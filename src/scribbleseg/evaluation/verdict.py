"""The verdict: what the figures of a run say, in plain sentences for people who do not read tables."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scribbleseg.evaluation.agreement import AGREES, DIFFERS
from scribbleseg.evaluation.metrics import Score, summarise
from scribbleseg.plural import number_of

GRADES = ((0.9, "very good"), (0.8, "good"), (0.7, "fair"), (0.5, "poor"), (0.0, "of little use"))
"""What a mean Dice is called from which value on (ours). Two people who draw large organs mostly agree above 0.9."""

EVEN = 0.05
"""Structures whose mean Dice lie this close together count as equally good; so do recall and precision (ours)."""

FEW_CASES = 10
"""With fewer scored cases the means and intervals are called rough (ours)."""


@dataclass(frozen=True)
class Difference:
    """The difference of a run's mean Dice to that of full supervision, over the cases that both have.

    Args:
        mean: below 0 where the run is worse.
        low: the lower end of its 95 % interval; NaN for a single case.
        high: the upper end.
        cases: the number of cases.
        bound: the name of the run that was trained on full masks.
    """

    mean: float
    low: float
    high: float
    cases: int
    bound: str


def verdict(scores: Sequence[Score], difference: Difference | None = None, agreement: float | None = None) -> list[str]:
    """What is to be said of a run, most important first.

    Args:
        scores: those of its test cases; none says what the agreement with held-out scribbles tells.
        difference: the one to full supervision, if there is such a run.
        agreement: the last network's with held-out scribbles, 0 to 1, if any were held out.

    Returns:
        Sentences without the run's name.
    """
    if not scores:
        return ["No test case has a reference mask, so nothing was scored.", *_agreed(agreement, scored=False)]
    main = [score for score in scores if not score.auxiliary] or list(scores)
    sentences = [_whole(main), _weakest(main), _empty(main), _leaning(main)]
    sentences += [_distance(difference)] if difference else []
    return [sentence for sentence in sentences if sentence] + _agreed(agreement, scored=True)


def grade(dice: float) -> str:
    """What a mean Dice is called, such as "good"."""
    return next(word for least, word in GRADES if dice >= least)


def _whole(scores: Sequence[Score]) -> str:
    """How good the segmentations are on the whole."""
    mean = summarise(scores)[-1]
    cases = number_of(mean["cases"], "test case")
    rough = ", which are so few that every figure here is rough" if mean["cases"] < FEW_CASES else ""
    what = f"{grade(mean['dice_mean'])}: mean Dice {mean['dice_mean']:.3f} over {cases}{rough}"
    return f"On the whole the segmentations are {what}."


def _weakest(scores: Sequence[Score]) -> str:
    """Which structure is found worst, where there are several and they differ."""
    rows = sorted(summarise(scores)[:-1], key=lambda row: row["dice_mean"])
    worst, best = rows[0], rows[-1]
    if len(rows) == 1:
        return ""
    low, high = f"Dice {worst['dice_mean']:.2f}", f"{best['dice_mean']:.2f}"
    if best["dice_mean"] - worst["dice_mean"] < EVEN:
        return f"All {len(rows)} structures are about equally good, {low} to {high}."
    return f"The weakest structure is {worst['structure']} with {low}, the best {best['structure']} with {high}."


def _empty(scores: Sequence[Score]) -> str:
    """How many masks were missed altogether or invented, and of which structures."""
    found = []
    for what in ("missed altogether", "invented"):
        of = Counter(score.structure for score in scores if getattr(score, what.split()[0]))
        if number := of.total():
            (name, most), *others = of.most_common()
            found.append(f"{number} {'was' if number == 1 else 'were'} {what} ({most} of {name}{_more(len(others))})")
    if not found and len(scores) == 1:
        return "The one mask was not missed altogether."
    if not found:
        return f"None of the {len(scores)} masks was missed altogether, and none invented."
    return f"Of {number_of(len(scores), 'mask')}, {' and '.join(found)}."


def _more(structures: int) -> str:
    return f", others of {number_of(structures, 'more structure')}" if structures else ""


def _leaning(scores: Sequence[Score]) -> str:
    """Whether too little or too much is drawn, where recall and precision differ."""
    mean = summarise(scores)[-1]
    recall, precision = mean["recall_mean"], mean["precision_mean"]
    if abs(recall - precision) < EVEN:
        return ""
    leaning = "less is marked than should be" if recall < precision else "more is marked than should be"
    return f"On the whole {leaning} (recall {recall:.2f}, precision {precision:.2f})."


def _distance(difference: Difference) -> str:
    """How far the run is from full supervision, and whether these cases can tell the two apart."""
    where = "below" if difference.mean < 0 else "above"
    said = f"The mean Dice is {abs(difference.mean):.3f} {where} that of full supervision ({difference.bound})"
    if np.isnan(difference.low):
        return f"{said}; one case is too few to say how sure that is."
    interval = f"the 95 % interval, {_signed(difference.low)} to {_signed(difference.high)},"
    if difference.low <= 0 <= difference.high:
        return f"{said}; {interval} contains 0, so these {difference.cases} cases do not tell the two apart."
    if difference.cases < FEW_CASES:
        return f"{said}; {interval} does not contain 0, but {difference.cases} cases are too few to rely on it."
    return f"{said}; {interval} does not contain 0, so the difference is likely to be found in other cases, too."


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _agreed(agreement: float | None, scored: bool) -> list[str]:
    """What the agreement with held-out scribbles says: much where it is low, little of outlines where it is high."""
    if agreement is None or np.isnan(agreement):
        unknown = "How good these segmentations are is not known: look at the pictures, or draw a mask of a few cases."
        return [] if scored else [unknown]
    said = f"The last network's agreement with scribbles that were held out from training is {agreement:.2f}"
    if agreement >= AGREES:
        return [f"{said}: it says what people drew. They draw where they are sure, so outlines may still be off."]
    if agreement >= DIFFERS:
        return [f"{said}: it confuses some of what people drew. Look at the pictures before you use it."]
    return [f"{said}: it does not say what people drew. Do not use it as it is."]
