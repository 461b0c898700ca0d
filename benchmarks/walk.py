"""How many of the library's functions and files a verb of the command line passes through.

    python benchmarks/walk.py train hearts --out runs/walk --workers 1
    python benchmarks/walk.py --quick

Counts the functions of scribbleseg that are called, the files they lie in, and the pairs of files of which one calls
the other. All modules are imported first, so that what runs while they are imported is not counted. What runs in other
processes is not seen.
"""

import argparse
import importlib
import pkgutil
import sys
import tempfile
from pathlib import Path
from types import FrameType

import scribbleseg

ROOT = str(Path(scribbleseg.__file__).parent)
QUICK = (
    "network.base=4", "stages.iterations=2", "stages.batch=2", "preprocess.spacing_mm=6.0", "preprocess.size=32",
)  # fmt: skip


class Walk:
    """A profiler that remembers which functions call which."""

    def __init__(self) -> None:
        self.functions: set[tuple[str, str, int]] = set()
        self.crossings: set[tuple[str, str]] = set()

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        """See `sys.setprofile`."""
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(ROOT) or code.co_name.startswith("<"):
            return
        self.functions.add((code.co_filename, code.co_qualname, code.co_firstlineno))
        caller = frame.f_back
        while caller is not None and not caller.f_code.co_filename.startswith(ROOT):
            caller = caller.f_back
        if caller is not None and caller.f_code.co_filename != code.co_filename:
            self.crossings.add((caller.f_code.co_filename, code.co_filename))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="train a tiny network on synthetic hearts")
    options, words = parser.parse_known_args()
    from scribbleseg.cli import app

    for module in pkgutil.walk_packages(scribbleseg.__path__, "scribbleseg."):
        importlib.import_module(module.name)
    with tempfile.TemporaryDirectory() as folder:
        if options.quick:
            from scribbleseg.phantoms import write_phantoms

            data = write_phantoms(Path(folder) / "hearts", train=2, test=0, shape=(3, 48, 48))
            words = ["train", str(data), "--out", f"{folder}/run", "--workers", "1", "--accelerator", "cpu"]
            words += [word for setting in QUICK for word in ("--set", setting)]
        walk = Walk()
        sys.setprofile(walk)
        try:
            app(words, standalone_mode=False)
        finally:
            sys.setprofile(None)
    files = {file for file, *_ in walk.functions}
    both = {frozenset(pair) for pair in walk.crossings if pair[::-1] in walk.crossings}
    print(f"{len(walk.functions)} functions in {len(files)} files")
    print(f"{len(walk.crossings)} pairs of files of which one calls the other, {len(both)} of which both do")


if __name__ == "__main__":
    main()
