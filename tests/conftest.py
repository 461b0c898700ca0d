"""Fixtures every test may use: the real data folder, where there is one."""

import locale
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from lightning_fabric import Fabric

# Tests are small: one thread is faster than two that wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def same_locale() -> Iterator[None]:
    """Tests that write DICOM leave the process in the locale C, as ITK does; the next test shall not read in it."""
    before = locale.setlocale(locale.LC_ALL)
    yield
    locale.setlocale(locale.LC_ALL, before)


@pytest.fixture(scope="session")
def fabric() -> Fabric:
    """One process on the CPU."""
    return Fabric(accelerator="cpu", devices=1)


@pytest.fixture
def real_data() -> Path:
    """The folder that SCRIBBLESEG_DATA names, or a skip."""
    folder = os.environ.get("SCRIBBLESEG_DATA")
    if not folder:
        pytest.skip("SCRIBBLESEG_DATA is not set")
    return Path(folder)
