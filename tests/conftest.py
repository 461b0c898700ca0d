"""Fixtures every test may use: the real data folder, where there is one."""

import os
from pathlib import Path

import pytest


@pytest.fixture
def real_data() -> Path:
    """The folder that SCRIBBLESEG_DATA names, or a skip."""
    folder = os.environ.get("SCRIBBLESEG_DATA")
    if not folder:
        pytest.skip("SCRIBBLESEG_DATA is not set")
    return Path(folder)
