"""Seed areas: how scribbles grow into the areas that a network starts from."""

from scribbleseg.seeds.random_walker import RandomWalker, Strokes, grow

__all__ = ["RandomWalker", "Strokes", "grow"]
