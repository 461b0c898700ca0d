"""The whole way on real scribbles, at a toy size: what reaches training, and what comes out on the native grid."""

from dataclasses import replace

import numpy as np
import pytest
from lightning_fabric import Fabric

from scribbleseg.data import acdc
from scribbleseg.data.preprocess import Preprocess
from scribbleseg.evaluation.metrics import dice
from scribbleseg.pipeline import begin, train
from scribbleseg.recipe import Relabel, Stage
from scribbleseg.recipes import can2018
from scribbleseg.types import UNLABELLED

pytestmark = pytest.mark.real_data


def test_scribbles_become_seeds_become_a_network(real_data, tmp_path):
    dataset = acdc(real_data / "acdc", train_patients=[1, 2], test_patients=[6])
    recipe = replace(
        can2018.COMPACT_BASE,
        preprocess=Preprocess(spacing_mm=2.5, size=96),
        network=replace(can2018.COMPACT_BASE.network, base=4),
        stages=(Stage(batch=4, iterations=20), Stage(batch=4, iterations=10, relabel=Relabel())),
    )
    session = begin(dataset, tmp_path / "run", recipe, fabric=Fabric(accelerator="cpu", devices=1))
    first, second = train(session)
    assert first.labelled > 0.7, "an exact random walker labels nearly everything at beta 1000"
    assert second.labelled == 1
    case = dataset.train[0]
    reference, seeds = dataset.reference(case.name), first.labels[: len(case.scribbles)]
    native = recipe.preprocess.native_labels(seeds, case.geometry)
    sure = native != UNLABELLED
    assert (native[sure] == reference[sure]).mean() > 0.97
    case = dataset.test[0]
    labels = second.segmenter.segment(case)
    assert labels.shape == dataset.reference(case.name).shape
    assert all(0 <= value <= 1 for value in dice(labels, dataset.reference(case.name), dataset.scored).values())
    assert np.unique(labels).max() <= 3
