"""Train fully automatic medical-image segmentation networks from a few scribbles instead of full masks."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["data", "recipes"],
    submod_attrs={
        "api": ["Model", "evaluate", "load", "seed", "train"],
        "data.layouts": ["open_dataset"],
        "evaluation.metrics": ["dice", "score"],
        "recipe": ["Recipe", "Relabel", "Stage"],
        "types": ["UNLABELLED", "Case", "DataError", "Dataset"],
    },
)
