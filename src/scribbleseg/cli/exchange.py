"""The verb on scribbles of other programs: convert."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from scribbleseg.cli.app import Format, Place, command, console, open_at, verb
from scribbleseg.plural import number_of

ProgramName = Literal["itksnap", "slicer", "mitk", "napari", "ilastik", "monai", "nnunet"]


@verb
def convert(
    source: Annotated[
        Path, typer.Argument(help="With --to: a data set. With --images: a folder of drawings.", show_default=False)
    ],
    out: Annotated[Path, typer.Argument(help="The folder to write to.", show_default=False)],
    to: Annotated[ProgramName | None, typer.Option(help="Write the data set's scribbles for this program.")] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="Read drawings as scribbles of this data set, or folder of images."),
    ] = None,
    from_: Annotated[
        ProgramName | None,
        typer.Option(
            "--from",
            help="The program that the drawings come from. Needed only where the files do not say it: all but nnunet "
            "leave 0 where nothing was drawn.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files of the same names in OUT.")] = False,
    format: Format = None,
) -> None:
    """Write scribbles for another program, or read what was drawn in one: ITK-SNAP, 3D Slicer, MITK, napari and others.

    Files of drawings are named like their cases: p01.nii.gz, p01-label.nrrd, p01_seg.tif, p01.seg.nrrd.

    Example: `scribbleseg convert hearts snap --to itksnap`

    Example: `scribbleseg convert snap hearts/scribbles --images hearts --from itksnap --overwrite`
    """
    from scribbleseg.annotate.exchange import PROGRAMS, export_scribbles, import_drawings
    from scribbleseg.types import DataError

    if (to is None) == (images is None):
        raise DataError(
            "expected either --to PROGRAM, to write a data set's scribbles for it, or --images DATA, to bring drawings "
            f"to these images, got {'both' if to else 'neither'}"
        )
    if to is not None:
        if from_ is not None:
            raise DataError("--from: expected with --images, got it with --to; leave it out")
        done = export_scribbles(open_at(Place(source, format)), out, to, overwrite)
        end = PROGRAMS[to].how
    elif images is not None:
        done = import_drawings(source, out, images, program=from_, format=format, overwrite=overwrite)
        own = out.resolve().parent == images.resolve()
        end = f"Next: {command('check', images, *(() if own else ('--scribbles', out)))}"
    for note in done.notes:
        console.print(note, style="yellow")
    console.print(f"Scribbles of {number_of(len(done.names), 'case')}: {done.folder}. {end}")
