"""Substructures of a tumour: clusters named by image-level labels, and the merge of two phases."""

from scribbleseg.substructures.cluster import KMeans
from scribbleseg.substructures.merge import merge

__all__ = ["KMeans", "merge"]
