"""Synthetic hearts, prostates and brain tumours with known truth, their human-like scribbles, and data sets of them."""

from scribbleseg.phantoms.brain import brain_tumour
from scribbleseg.phantoms.heart import heart
from scribbleseg.phantoms.prostate import prostate
from scribbleseg.phantoms.scribbles import draw_scribbles
from scribbleseg.phantoms.write import ORGANS, TUMOUR, USUAL_SHAPE, Organ, write_phantoms

__all__ = [
    "ORGANS",
    "TUMOUR",
    "USUAL_SHAPE",
    "Organ",
    "brain_tumour",
    "draw_scribbles",
    "heart",
    "prostate",
    "write_phantoms",
]
