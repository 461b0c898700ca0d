"""Train fully automatic medical-image segmentation networks from a few scribbles instead of full masks."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["data", "recipes"],
    submod_attrs={
        "data": ["open_dataset"],
        "em": ["em", "load_segmenter", "resolve"],
        "evaluate.metrics": ["dice", "score"],
        "pipeline": ["start_run"],
        "runs": ["open_run"],
        "train.loop": ["make_fabric"],
        "types": ["UNLABELLED", "Case", "DataError", "Dataset"],
    },
)
