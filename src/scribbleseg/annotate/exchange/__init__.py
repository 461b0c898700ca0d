"""Scribbles from and for the programs that people draw in: ITK-SNAP, 3D Slicer, MITK, napari, ilastik, MONAI Label."""

from scribbleseg.annotate.exchange.convert import Converted, export_scribbles, import_drawings
from scribbleseg.annotate.exchange.programs import PROGRAMS, Program

__all__ = ["PROGRAMS", "Converted", "Program", "export_scribbles", "import_drawings"]
