"""Draws scribbles by a rule on a reference mask, or shortens those that experts drew.

Everything is drawn slice by slice, as people do. What is drawn depends on the mask, the rule and the case's name only,
and a shorter version of a rule is a part of the longer one, so that a table over lengths compares lengths and nothing
else.
"""

import zlib

import numpy as np
from jaxtyping import Bool

from scribbleseg.annotate.simulate.curves import Curve, Picture, inked, ordered, parts
from scribbleseg.annotate.simulate.rules import Rule
from scribbleseg.types import UNLABELLED, Labels


def simulate(
    mask: Labels, rule: Rule, name: str, inside: Bool[np.ndarray, "depth height width"] | None = None
) -> Labels:
    """Draws scribbles such as a person would on a volume whose full mask is known.

    Args:
        mask: `depth height width`; 0 background, 1.. structures. Nothing is drawn where it is UNLABELLED.
        rule: how to draw.
        name: the case's name; another case with the same seed gets other random numbers.
        inside: the voxels where background may be drawn, such as the brain, in the mask's shape. None is all.

    Returns:
        An array of the same shape: equal to `mask` where drawn, UNLABELLED elsewhere. In the slices that are drawn
        on, every structure is, a structure of one voxel too; so is the background where there is any.

    Raises:
        ValueError: `inside` has another shape, or the rule has lengths for fewer labels than there are.
    """
    if inside is not None and inside.shape != mask.shape:
        raise ValueError(f"expected `inside` of the mask's shape {mask.shape}, got {inside.shape}")
    rng = _generator(rule, name)
    scribbles = np.full_like(mask, UNLABELLED)
    structures = (mask > 0) & (mask != UNLABELLED)
    place = structures.any(axis=0)
    for z, labels in enumerate(mask):
        for value in np.unique(labels[structures[z]]).tolist():
            structure = labels == value
            curve = rule.on_structure(structure, rng)
            scribbles[z][_drawn(curve, structure, rule, value, rng)] = value
        background = labels == 0 if inside is None else (labels == 0) & inside[z]
        if background.any():
            curve = rule.on_background(background, structures[z], place, rng)
            scribbles[z][_drawn(curve, background, rule, 0, rng)] = 0
    return _in_drawn_slices(scribbles, rule)


def shorten(scribbles: Labels, rule: Rule, name: str) -> Labels:
    """Shortens scribbles that somebody drew, to what the same person would have drawn with less patience.

    In each slice the strokes of a label are laid end to end, each along the longest path through its skeleton, and one
    piece of that is kept: `rule.length` of its pixels, in the pen's own width. Where the length is 0, a spot is kept:
    what lies on the strokes within `rule.width / 2` of one pixel.

    Args:
        scribbles: `depth height width`; labels, and UNLABELLED where nobody drew.
        rule: how much to keep.
        name: the case's name.

    Returns:
        An array of the same shape: equal to `scribbles` where kept, UNLABELLED elsewhere. Some are kept in every
        volume that has any: `rule.every` counts the slices with scribbles.

    Raises:
        ValueError: the rule has lengths for fewer labels than there are.
    """
    rng = _generator(rule, name)
    kept = np.full_like(scribbles, UNLABELLED)
    for z, labels in enumerate(scribbles):
        for value in np.unique(labels[labels != UNLABELLED]).tolist():
            drawn = labels == value
            strokes = np.concatenate([ordered(stroke, rng) for stroke in parts(drawn)])
            kept[z][_drawn(strokes, drawn, rule, value, rng)] = value
    return _in_drawn_slices(kept, rule)


def _in_drawn_slices(scribbles: Labels, rule: Rule) -> Labels:
    """Returns the scribbles of some of the slices that have any, as the rule says."""
    kept, drawn = np.full_like(scribbles, UNLABELLED), np.flatnonzero((scribbles != UNLABELLED).any(axis=(1, 2)))
    chosen = drawn[rule.drawn_slices(len(drawn))] if len(drawn) else drawn
    kept[chosen] = scribbles[chosen]
    return kept


def _generator(rule: Rule, name: str) -> np.random.Generator:
    return np.random.default_rng((rule.seed, zlib.crc32(name.encode())))  # Python's own hash differs from run to run


def _drawn(curve: Curve, allowed: Picture, rule: Rule, label: int, rng: np.random.Generator) -> Picture:
    """Returns what the pen leaves on `allowed` pixels when it draws the rule's share of the curve."""
    curve = curve[allowed[tuple(curve.T)]]
    if len(curve):
        kept = max(1, round(rule.length_of(label) * len(curve)))
        # One random number, whatever the length: the windows of different lengths lie inside each other.
        start = int(rng.random() * (len(curve) - kept + 1))
        curve = curve[start : start + kept]
    return inked(curve, rule.width, allowed)
