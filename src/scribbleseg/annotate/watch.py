"""What `check` finds in training cases, found while a training reads them: it refuses faults and says warnings."""

import logging
from collections.abc import Callable

import numpy as np

from scribbleseg.annotate.case_faults import Fault, of_case
from scribbleseg.annotate.check import counted, coverage_of, in_both_parts, of_coverage, sentences
from scribbleseg.data import coarse
from scribbleseg.data.orientation import Turn
from scribbleseg.plural import number_of
from scribbleseg.types import Case, Cases, DataError, Dataset, Geometry

log = logging.getLogger(__name__)


def watched(dataset: Dataset, turn: Callable[[Geometry], Turn]) -> Cases:
    """Returns the training cases of a data set, to be read once each; nothing is read for the watching.

    Reading the last one of them raises DataError in `check`'s words where a case or their scribbles together have a
    fault, and else logs the warnings.

    Args:
        dataset: the data set.
        turn: how a volume is brought into the slices that are trained on.
    """
    label_names = coarse(dataset).label_names
    faults: list[Fault] = list(in_both_parts(dataset))
    counts: list[np.ndarray] = []

    def read(name: str) -> Case:
        case = dataset.train.named(name)
        faults.extend(of_case(case, dataset, turn(case.geometry)))
        counts.append(counted(case.scribbles)[: len(label_names)])
        if len(counts) == len(dataset.train):
            _judge([*faults, *of_coverage(coverage_of(label_names, counts, 0), dataset.root)])
        return case

    return dataset.train.read_by(read)


def _judge(faults: list[Fault]) -> None:
    """Raises DataError for the faults, or logs the warnings."""
    said = sentences(faults)
    refused = [sentence for severity, sentence in said if severity == "fault"]
    if refused:
        more = len(refused) - 1
        raise DataError(
            refused[0] + (f" (and {number_of(more, 'more fault')}; `scribbleseg check` lists them)" if more else "")
        )
    for severity, sentence in said:
        if severity == "warning":
            log.warning("warning %s", sentence)
