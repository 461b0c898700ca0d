"""README's Python example runs as it stands, on synthetic hearts and with the default recipe at a toy size.

`make test-oldest` runs this file with the oldest versions of the dependencies that pyproject.toml allows.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from scribbleseg.phantoms import write_phantoms
from scribbleseg.recipes import default
from scribbleseg.settings import override

README = Path(__file__).resolve().parents[1] / "README.md"
TINY = [
    "network.base=4", "stages.0.iterations=4", "stages.1.iterations=2", "stages.batch=2",
    "preprocess.spacing_mm=6.0", "preprocess.size=32",
]  # fmt: skip


def test_the_python_example_runs(tmp_path, monkeypatch, capsys):
    write_phantoms(tmp_path / "hearts", train=2, test=1, shape=(3, 48, 48))
    (tmp_path / "new").mkdir()
    shutil.copy(tmp_path / "hearts" / "images" / "test000.nii.gz", tmp_path / "new" / "p07.nii.gz")
    monkeypatch.chdir(tmp_path)
    for size in default.SIZES:  # whichever fits the machine
        monkeypatch.setitem(default.RECIPES, size, override(default.RECIPES[size], TINY))
    (example,) = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    names: dict = {}
    exec(compile(example, "README.md", "exec"), names)
    assert names["labels"].shape == names["hearts"].test[0].image.shape[1:]
    assert names["areas"].shape == names["hearts"].train[0].scribbles.shape
    assert "RV" in capsys.readouterr().out
    assert names["ss"].train is not names["ss"].load, "functions, not modules of the same names"


def test_the_command_line_starts():
    command = Path(sys.executable).with_name("scribbleseg")
    done = subprocess.run([command, "train", "--help"], check=True, capture_output=True, text=True)
    assert "--recipe" in done.stdout
    assert "default.quick" in "".join(done.stdout.split()).replace("│", "")
