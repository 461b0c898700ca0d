"""The colours of labels, on every page: a structure has the same colour wherever it is shown."""

STRUCTURE_COLOURS = (
    *("#56b4e9", "#e69f00", "#cc79a7", "#009e73", "#f0e442", "#d55e00", "#0072b2"),
    *("#785a2d", "#784bc3", "#c3003c", "#87f078", "#d2d296", "#698700", "#ffa587"),
    *("#5af0f0", "#b40f87", "#b4a5ff", "#f087ff", "#00f0b4", "#ff5a96"),
)
"""Okabe & Ito's palette (jfly.uni-koeln.de/color), made to be told apart with every kind of colour vision, and for data
sets of up to 20 structures 13 colours of ours: each the farthest from all before it in CIELAB, of moderate chroma."""

BACKGROUND_COLOUR = "#8f9bff"
"""The colour of what is labelled as background: one that no structure has, and light enough for strokes."""
