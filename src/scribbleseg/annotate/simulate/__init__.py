"""Scribbles drawn by rule: from reference masks, or by shortening the scribbles that experts drew."""

from scribbleseg.annotate.simulate.draw import shorten, simulate
from scribbleseg.annotate.simulate.rules import RULES, AnyRule, Boundary, Rule, ShiftedSkeleton, Skeleton, with_lengths
from scribbleseg.annotate.simulate.write import Drawn, Source, drawn_in, write_simulation

__all__ = [
    "RULES",
    "AnyRule",
    "Boundary",
    "Drawn",
    "Rule",
    "ShiftedSkeleton",
    "Skeleton",
    "Source",
    "drawn_in",
    "shorten",
    "simulate",
    "with_lengths",
    "write_simulation",
]
