"""Seed areas: how scribbles grow into the areas that a network starts from."""

from scribbleseg.seeds.graph_cut import GraphCut
from scribbleseg.seeds.grow import grow
from scribbleseg.seeds.random_walker import AUTOMATIC, RandomWalker
from scribbleseg.seeds.strokes import Strokes

__all__ = ["AUTOMATIC", "GraphCut", "RandomWalker", "Strokes", "grow"]
