"""The whole way on real scribbles, at a toy size: what reaches training, and what comes out on the native grid."""

from dataclasses import replace

import numpy as np
import pytest
from lightning_fabric import Fabric

from scribbleseg.data import acdc
from scribbleseg.data.preprocess import Preprocess
from scribbleseg.em import em
from scribbleseg.evaluate.metrics import dice
from scribbleseg.pipeline import start_run
from scribbleseg.recipes import can2018
from scribbleseg.train.loop import Training
from scribbleseg.types import UNLABELLED

pytestmark = pytest.mark.real_data


def test_scribbles_become_seeds_become_a_network(real_data, tmp_path):
    dataset = acdc(real_data / "acdc", train_patients=[1, 2], test_patients=[6])
    recipe = replace(
        can2018.COMPACT_BASE,
        preprocess=Preprocess(spacing_mm=2.5, size=96),
        network=replace(can2018.COMPACT_BASE.network, base=4),
        training=Training(batch=4, iterations=20, iterations_again=10),
        recursions=1,
    )
    run = start_run(tmp_path / "run", recipe, dataset)
    first, second = em(recipe, dataset, run, Fabric(accelerator="cpu", devices=1))
    assert first.labelled > 0.7, "an exact random walker labels nearly everything at beta 1000"
    assert second.labelled == 1
    case = dataset.train[0]
    reference, seeds = dataset.reference(case.name), first.labels[: len(case.scribbles)]
    native = recipe.preprocess.native_labels(seeds, case)
    sure = native != UNLABELLED
    assert (native[sure] == reference[sure]).mean() > 0.97
    case = dataset.test[0]
    labels = second.segmenter.segment(case)
    assert labels.shape == dataset.reference(case.name).shape
    assert all(0 <= value <= 1 for value in dice(labels, dataset.reference(case.name), dataset.scored).values())
    assert np.unique(labels).max() <= 3
