"""What the tests of damage and of stopping share: a few synthetic hearts, and a finished run on them."""

import shutil

import pytest

import scribbleseg as ss
from scribbleseg.data import folder
from scribbleseg.phantoms import write_phantoms
from scribbleseg.runs import Run


@pytest.fixture(scope="session")
def hearts(tmp_path_factory):
    return folder(write_phantoms(tmp_path_factory.mktemp("faults") / "hearts", train=2, test=1, shape=(3, 48, 48)))


@pytest.fixture(scope="module")
def trained(request, hearts, tmp_path_factory):
    """The folder of a run of the module's own recipe; read only."""
    out = tmp_path_factory.mktemp("faults") / "run"
    ss.train(hearts, out, request.module.TINY, accelerator="cpu")
    return out


@pytest.fixture
def run(trained, tmp_path):
    """A copy of that run, to be damaged."""
    return Run(shutil.copytree(trained, tmp_path / "run"))
