"""What is refused in one sentence, and before anything has been trained or written."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import scribbleseg as ss
from scribbleseg.annotate import check
from scribbleseg.cli import app
from scribbleseg.data import open_dataset
from scribbleseg.data.preprocess import Preprocess
from scribbleseg.phantoms import write_phantoms
from scribbleseg.recipe import Recipe, Stage
from scribbleseg.seeds.random_walker import RandomWalker
from scribbleseg.settings import override, to_plain
from scribbleseg.training.crf_loss import DenseCRFLoss
from scribbleseg.training.losses import PartialCrossEntropy
from scribbleseg.training.optimisers import SGD, Adam
from scribbleseg.training.unet import UNet
from scribbleseg.types import DataError

STAGE = Stage(iterations=2, batch=2)
TINY = Recipe(
    preprocess=Preprocess(spacing_mm=6.0, size=32),
    seeds=RandomWalker(tau=0.9, beta=100.0),
    network=UNet(base=4, padded=True),
    stages=(STAGE,),
)


@pytest.fixture(scope="module")
def hearts(tmp_path_factory):
    return open_dataset(write_phantoms(tmp_path_factory.mktemp("hearts") / "data", train=2, test=1, shape=(3, 48, 48)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": (STAGE, replace(STAGE, restarts=False, optimiser=SGD()))}, "restarts is false.* adam, got sgd"),
        (
            {"stages": (replace(STAGE, losses=(PartialCrossEntropy(), DenseCRFLoss(channels=(0,), scale=3))),)},
            "scale 3",
        ),
        ({"stages": (replace(STAGE, losses=(PartialCrossEntropy(), DenseCRFLoss(channels=()))),)}, "at least 1 item"),
        ({"preprocess": Preprocess(spacing_mm=6.0, size=10**9)}, "preprocess.size.*less than or equal to 4096"),
        (
            {"preprocess": Preprocess(spacing_mm=float("inf"), size=32)},
            "spacing_mm: .*less than or equal to 1000, got inf",
        ),
        (
            {"stages": (replace(STAGE, optimiser=Adam(learning_rate=float("inf"))),)},
            "learning_rate: expected a number of .* got inf",
        ),
    ],
)
def test_recipes_that_cannot_train_are_refused_before_anything_is_written(changes, message, hearts, tmp_path):
    with pytest.raises(DataError, match=message):
        ss.train(hearts, tmp_path / "run", replace(TINY, **changes), accelerator="cpu")
    assert not (tmp_path / "run").exists()


def test_a_loss_of_channels_that_images_do_not_have_is_refused_before_seeds_are_grown(hearts, tmp_path):
    loss = DenseCRFLoss(channels=(0, 2))
    recipe = replace(TINY, stages=(replace(STAGE, losses=(PartialCrossEntropy(), loss)),))
    with pytest.raises(DataError, match=r"channels below 1, the number that images have, got \(0, 2\)"):
        ss.train(hearts, tmp_path / "run", recipe, accelerator="cpu")
    assert not list((tmp_path / "run").glob("slices/labels_0.raw"))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ('network={"kind":"monai","nme":"SegResNet"}', "recipe field network.nme: expected a field among"),
        ('stages.0={"iterations":3,"itrations":9}', "recipe field stages.0.itrations"),
        ("stages.²=3", "expected a field of the recipe"),
        ("stages.1.batch=3", "expected a field of the recipe"),
        ("stages.-1.batch=3", "expected a field of the recipe"),
    ],
)
def test_a_field_that_no_part_has_is_named(setting, message):
    with pytest.raises(DataError, match=message):
        override(TINY, [setting])


def test_another_kind_of_part_has_its_own_defaults():
    changed = override(TINY, ["stages.optimiser.kind=sgd"])
    assert changed.stages[0].optimiser == SGD()
    changed = override(TINY, ["stages.optimiser.kind=sgd", "stages.optimiser.momentum=0.5"])
    assert changed.stages[0].optimiser == SGD(momentum=0.5)


@dataclass(frozen=True)
class Part:
    number: int
    other: object = 0


def test_numbers_of_numpy_are_numbers_and_other_objects_are_refused():
    assert to_plain(Part(np.int64(3), np.float32(0.5))) == {"number": 3, "other": 0.5}
    with pytest.raises(DataError, match="expected numbers, words or parts of a recipe"):
        to_plain(Part(3, object()))


def test_training_and_loading_leave_the_callers_random_numbers_alone(hearts, tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    ss.train(hearts, tmp_path / "run", TINY, accelerator="cpu")
    ss.load(tmp_path / "run", "cpu")
    assert torch.equal(torch.rand(3), expected)
    with pytest.raises(DataError, match="recursions 0 to 0 are there"):
        ss.load(tmp_path / "run", "cpu", recursion=-1)


def test_a_renamed_run_goes_on(hearts, tmp_path):
    ss.train(hearts, tmp_path / "first", TINY, accelerator="cpu")
    (tmp_path / "first").rename(tmp_path / "second")
    ss.train(hearts, tmp_path / "second", TINY, resume=True, accelerator="cpu")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 27.0 GiB for an array"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 29 bytes"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    ],
)
def test_running_out_of_memory_is_said_in_a_sentence(error, hearts, monkeypatch):
    def out_of_memory(*_, **__):
        raise error

    monkeypatch.setattr(check, "check", out_of_memory)
    answer = CliRunner().invoke(app, ["check", str(hearts.root)])
    assert answer.exit_code == 2
    said = " ".join(answer.output.split())
    assert f"ran out of it ({str(error) or 'no more is free'})" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    "said", ["mat1 and mat2 shapes cannot be multiplied", "an illegal memory access", "memory format"]
)
def test_other_errors_of_the_program_are_not_hidden(said, hearts, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError(said)

    monkeypatch.setattr(check, "check", broken)
    assert isinstance(CliRunner().invoke(app, ["check", str(hearts.root)]).exception, RuntimeError)
