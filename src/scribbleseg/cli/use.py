"""The verb that uses a trained network: predict."""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from scribbleseg import ranks
from scribbleseg.cli.app import (
    Accelerator,
    console,
    errors,
    print_table,
    shared_verb,
)
from scribbleseg.plural import number_of

if TYPE_CHECKING:
    from scribbleseg.api import Model
    from scribbleseg.relabel.uncertainty import Rank
    from scribbleseg.types import Case, Cases

UNFINISHED = "predict.unfinished.json"
"""Says, in a folder of label maps, which command is writing them; gone once it has finished."""

OF_RANK = "predict.{}.unfinished.json"
"""What each of several ranks but the first has done of it."""

SHOWN = 10
"""Rows of a ranking that are printed; the file has all."""


@shared_verb
def predict(
    run: Annotated[Path, typer.Argument(help="The run folder of `train`.", show_default=False)],
    images: Annotated[Path, typer.Argument(help="An image, a folder of images, or a data set.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The folder for the label maps, CASE.nii.gz (or .png for pictures).")],
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also write CASE_probabilities.nii.gz.")
    ] = False,
    uncertainty: Annotated[
        bool,
        typer.Option(
            "--uncertainty",
            help="Also write maps: CASE_uncertainty_p (high where 50 passes with dropout cannot tell the two likeliest "
            "labels apart), _entropy, _mutual_information; and rank the cases in uncertainty.csv.",
        ),
    ] = False,
    recursion: Annotated[
        int | None,
        typer.Option(min=0, max=10**9, help="Use the network of this round of training, from 0. Default: the last."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are in OUT already.")] = False,
    accelerator: Accelerator = "auto",
) -> None:
    """Segment new images with a trained network, each on its own grid.

    Given a data set, it segments the test cases of the split that the run was trained on, or all cases where there are
    no test cases. An image that cannot be segmented is named, the others are done, and the exit code is 1. The same
    command goes on where it was interrupted.

    Example: `scribbleseg predict runs/first ACDC/patient006/patient006_frame01.nii.gz --out predictions`
    """
    from scribbleseg.api import load
    from scribbleseg.lock import holding

    model = load(run, accelerator, recursion)
    if uncertainty:
        model.segmenter.check_dropout()
    cases = model.cases(images)
    asked = [str(images.resolve()), recursion, probabilities, uncertainty]
    task = {"run": str(run.resolve()), "weights": model.run.weights, "asked": asked}

    def begin() -> "_Progress":
        _check_place(out, images, model)
        held.enter_context(holding(out, "a folder of label maps"))
        return _begun(_Progress(out, task), cases, probabilities or uncertainty, model, overwrite)

    with ExitStack() as held:
        progress = ranks.on_leader(begin)
        left = cases.only(progress.left(cases.names))
        failed = _segment_all(model, left, progress.of_rank(), probabilities, uncertainty)
        if failed and len(failed) == len(cases):
            raise progress.in_vain(failed[0])
        if not ranks.leads():
            return
        _say_done(cases, left, failed, out, model)
        if uncertainty:
            _print_ranking(out, [rank for name, rank in progress.done.items() if name in cases.names and rank])
        if failed:
            raise _not_segmented(failed)
        progress.forget()


def _begun(progress: "_Progress", cases: "Cases", maps: bool, model: "Model", overwrite: bool) -> "_Progress":
    """Make the folder ready for label maps, and other maps. Raises DataError where others lie in OUT."""
    from scribbleseg.data.predictions import MAPS
    from scribbleseg.files import write_text

    declaration = _free_place(progress, progress.left(cases.names), MAPS if maps else (), model, overwrite)
    progress.write_all()
    write_text(progress.out / "dataset.json", declaration)  # as nnU-Net does: `evaluate` reads it
    return progress


def _say_done(cases: "Cases", left: "Cases", failed: Sequence[str], out: Path, model: "Model") -> None:
    """How many label maps there are, how many of them were there already, and what their values mean."""
    values = ", ".join(f"{value} {name}" for value, name in enumerate(model.label_names))
    also = f" ({len(cases) - len(left)} were there already)" if len(left) < len(cases) else ""
    console.print(f"{number_of(len(cases) - len(failed), 'label map')} in {out}{also}, {values}")


def _not_segmented(failed: Sequence[str]) -> typer.Exit:
    for error in failed:
        errors.print(f"not segmented: {error}", style="yellow")
    errors.print("The same command segments these once they are mended.")
    return typer.Exit(1)


class _Progress:
    """What a command has done in a folder of label maps, on disk until it has finished, so that it can go on.

    Args:
        out: the folder.
        task: what the command is, as plain values; what another one has done does not count.

    Attributes:
        own: the cases whose label maps it wrote, or was writing when it was interrupted.
        done: the ranks, where there are any, of those whose images are still the same.
    """

    def __init__(self, out: Path, task: Mapping[str, Any]) -> None:
        from scribbleseg.files import read_json

        self.out, self.file, self.task = out, out / UNFINISHED, dict(task)
        self._written: dict[str, dict[str, Any]] = {}
        for file in filter(Path.exists, (self.file, *self._of_ranks())):
            known = read_json(file, "delete it and give --overwrite")
            written = known["done"] if known.get("task") == self.task else {}
            self._written |= {name: each or {} for name, each in written.items()}
        self.own = frozenset(self._written)
        there = {path.name.partition(".")[0] for path in out.glob("*")}
        self.done: dict[str, dict[str, Any] | None] = {
            name: each.get("rank")
            for name, each in self._written.items()
            if name.partition(".")[0] in there and _unchanged(each.get("files", {}))
        }

    def left(self, names: Sequence[str]) -> list[str]:
        """Those of some cases that are not done."""
        return [name for name in names if name not in self.done]

    def of_rank(self) -> "_Progress":
        """What this rank adds to: rank 0 to what it has written, each of the others to a file of its own."""
        if (one := ranks.started()) and one.rank:
            self.file, self._written = self.out / OF_RANK.format(one.rank), {}
        return self

    def _of_ranks(self) -> list[Path]:
        return sorted(self.out.glob(OF_RANK.format("*")))

    def write(self) -> None:
        """Write down what is done so far."""
        from scribbleseg.files import write_json

        write_json(self.file, {"task": self.task, "done": self._written})

    def write_all(self) -> None:
        """Write down in one file what ranks have done so far; before they begin."""
        self.write()
        for file in self._of_ranks():
            file.unlink()

    def begin(self, name: str) -> None:
        """Write down that files of a case are going to be written, so that they are known as its own after a kill."""
        self._written[name] = {}
        self.write()

    def give_up(self, name: str) -> None:
        """Write down that no file of a case has been written."""
        if name not in self.own and self._written.pop(name, None) is not None:
            self.write()

    def finish(self, case: "Case", rank: dict[str, Any] | None) -> None:
        """Write down that a case is done, with its rank where there is one."""
        from scribbleseg.data.fingerprint import digest_of_files

        self.done[case.name] = rank
        files = {str(file.resolve()): digest_of_files([file]) for file in case.files}
        self._written[case.name] = {"rank": rank, "files": files}
        self.write()

    def forget(self) -> None:
        """Leave no trace; after all ranks have done their share."""
        for file in (*self._of_ranks(), self.file) if ranks.leads() else ():
            file.unlink()

    def in_vain(self, why: str) -> Exception:
        """Leave no trace, for nothing could be segmented; the error that says why."""
        from scribbleseg.types import DataError

        self.forget()
        return DataError(why)


def _unchanged(files: Mapping[str, str]) -> bool:
    """Whether files still have these digests; where none are known, nobody can tell."""
    from scribbleseg.data.fingerprint import digest_of_files

    return bool(files) and all(digest_of_files([Path(file)]) == digest for file, digest in files.items())


def _segment_all(
    model: "Model", cases: "Cases", progress: _Progress, probabilities: bool, uncertainty: bool
) -> list[str]:
    """Segment what can be segmented; the errors of the cases that cannot. Raises DataError where OUT takes no more."""
    from dataclasses import asdict

    from scribbleseg.files import FileError
    from scribbleseg.types import DataError

    def segment(name: str) -> tuple[dict[str, Any] | None, str | None]:
        try:
            case = cases.named(name)
            progress.begin(name)
            rank = asdict(_uncertain(model, case, progress.out)) if uncertainty else None
            _segment(model, case, progress.out, probabilities)
        except DataError as error:
            if isinstance(error, FileError) and progress.out in error.file.parents:
                raise
            progress.give_up(name)
            return None, str(error)
        progress.finish(case, rank)
        return rank, None

    found = ranks.share(cases.names, segment, "Segmenting")
    progress.done |= {name: rank for name, (rank, error) in zip(cases.names, found, strict=True) if error is None}
    return [error for _, error in found if error is not None]


def _print_ranking(out: Path, found: Sequence[Mapping[str, Any]]) -> None:
    """Write the ranking of the cases, and print its beginning."""
    from scribbleseg.relabel.uncertainty import Rank, write_ranking

    ranked = [Rank(**each) for each in found]
    write_ranking(out, ranked)
    table = Table("most uncertain first", "entropy, nats", "uncertain", box=None)
    for rank in sorted(ranked, key=lambda rank: -rank.score)[:SHOWN]:
        table.add_row(rank.case, f"{rank.score:.4f}", f"{rank.uncertain:.1%}")
    print_table(table)
    console.print(f"All cases: {out / 'uncertainty.csv'}")


def _check_place(out: Path, images: Path, model: "Model") -> None:
    """Raises DataError where label maps would lie among images, scribbles, masks, or what a run consists of."""
    from scribbleseg.data.layouts import recognise
    from scribbleseg.pipeline import data_of
    from scribbleseg.runs import check_outside
    from scribbleseg.types import DataError

    sets = [images] if images.is_dir() and recognise(images) else []
    check_outside(out, *sets, Path(data_of(model.run)["folder"]))
    folder = images if images.is_dir() else images.parent
    for place in (folder, folder / "images", folder / "imagesTs"):  # a folder of its own among the images is no image
        if out.exists() and place.exists() and out.samefile(place):
            raise DataError(
                f"{out}: expected another folder than that of the images, which label maps of the same names would "
                "replace; give another --out"
            )


def _free_place(progress: _Progress, names: Sequence[str], maps: Sequence[str], model: "Model", overwrite: bool) -> str:
    """The text of the dataset.json that will describe the label maps. Raises DataError where others lie in OUT.

    Nothing but what `predict` wrote is ever replaced: its dataset.json says that a folder is one of label maps.
    """
    from scribbleseg.data.formats import PNG
    from scribbleseg.types import DataError

    out = progress.out
    values = {name: value for value, name in enumerate(model.label_names)}
    file, text = out / "dataset.json", json.dumps({"labels": values}) + "\n"
    if file.exists() and not (file.is_file() and file.read_bytes() == text.encode()):
        raise DataError(f"{file}: expected no description of another data set, found one; give another --out")
    there = [
        f"{name}{kind}{end}"
        for name in names
        if name not in progress.own
        for kind in ("", *maps)
        for end in (".nii.gz", PNG)
        if os.path.lexists(out / f"{name}{kind}{end}")
    ]
    if there and not file.exists():
        raise DataError(
            f"{out}: expected a folder for label maps, found {there[0]}, which `predict` did not write (it writes "
            "dataset.json beside); give another --out"
        )
    if there and not overwrite:
        raise DataError(f"{out}: expected no file of these names, found {there[0]}; give another --out, or --overwrite")
    return text


def _segment(model: "Model", case: "Case", out: Path, probabilities: bool) -> None:
    from scribbleseg.data.formats import label_ending, write_labels, write_probabilities

    if probabilities:
        likely = model.probabilities(case)
        write_probabilities(out / f"{case.name}_probabilities.nii.gz", likely, case.geometry)
        labels = model.segmenter.labels(likely)  # type: ignore[attr-defined]  # of one network: it has probabilities
    else:
        labels = model.segment(case)
    write_labels(out / f"{case.name}{label_ending(case.geometry)}", labels, case.geometry)


def _uncertain(model: "Model", case: "Case", out: Path) -> "Rank":
    """Write the maps of a case, and rank it."""
    from scribbleseg.relabel.decide import WelchTest
    from scribbleseg.relabel.uncertainty import rank, uncertainty, write_uncertainty

    test = WelchTest()
    found = uncertainty(model.segmenter, case, test)  # type: ignore[arg-type]  # of one network: it has dropout
    write_uncertainty(out, case, found)
    return rank(case.name, found, test)
