"""Fixtures of the M step's tests: a device, a cache of slices made of arrays, and one M step on it."""

from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from lightning_fabric import Fabric

from scribbleseg.data.formats import geometry_to_plain
from scribbleseg.data.slices import FIXED, LAYERS, Slices
from scribbleseg.training.augment import Augment
from scribbleseg.training.loop import Batches, Course, Source, Training, m_step
from scribbleseg.training.network import NetworkModule
from scribbleseg.types import UNLABELLED, Geometry


@pytest.fixture
def make_slices(tmp_path: Path) -> Callable[..., Slices]:
    """Writes a cache that holds exactly the layers that are given, in one case, and opens it."""
    numbers = count()

    def make(images: np.ndarray, labels: np.ndarray, **layers: np.ndarray) -> Slices:
        folder = tmp_path / f"slices_{next(numbers)}"
        folder.mkdir()
        for kind, values in {"images": images, "labels": labels, **layers}.items():
            name = f"{kind}.raw" if kind in FIXED else f"{kind}_0.raw"
            values.astype(LAYERS[kind].dtype).tofile(folder / name)
        n, *shape = images.shape
        case = {
            "slices": n,
            "pixels": labels.size,
            "spacing_mm": (1.0, 1.0, 1.0),
            "present": None,
            "geometry": geometry_to_plain(Geometry((n, *shape[1:]), np.eye(4))),
        }
        return Slices(folder, {"shape": shape, "images_as": "float16", "cases": {"a": case}})

    return make


@pytest.fixture
def boxes() -> tuple[np.ndarray, np.ndarray]:
    """Images `slice channel height width` of noisy boxes, and their labels in every other row."""
    rng = np.random.default_rng(0)
    labels = np.zeros((7, 32, 32), np.uint8)
    labels[:, 8:20, 10:24] = 1
    images = (labels + rng.normal(0, 0.3, labels.shape)).astype(np.float32)[:, None]
    labels[:, ::2] = UNLABELLED
    return images, labels


@pytest.fixture
def train(fabric: Fabric, tmp_path: Path) -> Callable[..., NetworkModule]:
    """One M step on the cache's labels 0, with its checkpoint in the test's folder; returns the network."""

    def run(
        network: NetworkModule,
        training: Training,
        slices: Slices,
        log: Callable[[dict], None] = lambda record: None,
        *,
        name: str = "m_step",
        augment: Augment | None = Augment(),  # noqa: B008
        batches: type[Batches] = Batches,
        **course: object,
    ) -> NetworkModule:
        m_step(
            network,
            training,
            batches=batches(Source(slices, 0), augment, (0, 0)),
            fabric=fabric,
            course=Course(tmp_path / f"{name}.ckpt", log, **course),
        )
        return network

    return run
