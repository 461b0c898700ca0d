"""Data sets: opening them in any known layout, viewing them in other ways, and preparing them for training."""

from scribbleseg.data.fingerprint import fingerprint
from scribbleseg.data.layouts import LAYOUTS, Layout, open_dataset
from scribbleseg.data.layouts.acdc import acdc
from scribbleseg.data.layouts.brats import brats
from scribbleseg.data.layouts.folder import folder, images
from scribbleseg.data.layouts.nnunet import nnunet
from scribbleseg.data.layouts.prostate import nci_isbi, promise12, prostate158
from scribbleseg.data.views import coarse, fully_annotated, with_scribbles

__all__ = [
    "LAYOUTS",
    "Layout",
    "acdc",
    "brats",
    "coarse",
    "fingerprint",
    "folder",
    "fully_annotated",
    "images",
    "nci_isbi",
    "nnunet",
    "open_dataset",
    "promise12",
    "prostate158",
    "with_scribbles",
]
