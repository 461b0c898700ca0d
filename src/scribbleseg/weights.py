"""Weights of networks on disk, and the segmenters made of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from torch import Tensor

from scribbleseg.files import FileError
from scribbleseg.old_runs import is_old, renamed_weights
from scribbleseg.recipe import Recipe
from scribbleseg.relabel.predict import Segmenter
from scribbleseg.runs import Run
from scribbleseg.training.network import NetworkModule, trial
from scribbleseg.training.state import read_state, save_state
from scribbleseg.types import DataError


def save_weights(network: NetworkModule, path: Path, single_components: Sequence[int] = ()) -> None:
    """Write what `load_weights` and `load_segmenter` read. Raises DataError where it cannot be written.

    Args:
        network: the network.
        path: the file.
        single_components: the structures of which it is to keep the largest connected component alone.
    """
    found = {"channels": network.channels, "single_components": list(single_components), "state": network.state_dict()}
    save_state(path, found)


def load_weights(network: NetworkModule, path: Path) -> NetworkModule:
    """Load into `network` in place what `save_weights` wrote, and return it. Raises DataError for a damaged file."""
    return _put(read_weights(path)["state"], network, path)


def read_weights(path: Path) -> dict[str, Any]:
    """What `save_weights` wrote: "channels", "single_components" and "state". Raises DataError for a damaged file."""
    return read_state(path, {"channels": int, "state": dict})


def _put(state: Mapping[str, Tensor], network: NetworkModule, path: Path) -> NetworkModule:
    """Put weights into a network and return it. Raises FileError for those of another network."""
    try:
        network.load_state_dict(state)
    except (AttributeError, RuntimeError, TypeError) as error:  # of other names or shapes, or no weights at all
        reason = (str(error).splitlines() or [""])[-1].strip()
        raise FileError(
            path,
            f"expected weights of the network in recipe.json, found those of another ({reason})",
            "one of the two files is damaged or of another run: restore it from a copy",
        ) from error
    return network


def read_single_components(path: Path) -> frozenset[int]:
    """The structures of which only the largest connected component is kept. Raises DataError for a damaged file."""
    return frozenset(read_weights(path).get("single_components", ()))


def load_segmenter(recipe: Recipe, run: Run, fabric: Fabric, recursion: int | None = None) -> Segmenter:
    """The network of a recursion of a run, the last finished one by default, ready to segment.

    Raises:
        DataError: if that recursion has not finished.
    """
    index = max(run.recursions - 1, 0) if recursion is None else recursion
    path = run.network(index)
    if index < 0 or not path.exists():
        done = f"recursions 0 to {run.recursions - 1} are" if run.recursions else "none is"
        raise DataError(
            f"{path}: expected the weights of a finished round of training (recursion), {done} there; finish "
            "`train` (--resume)"
        )
    label_names = tuple(run.details["label_names"])
    weights = read_weights(path)
    network = trial(recipe.network.build, weights["channels"], len(label_names))
    _put(renamed_weights(weights["state"]) if is_old(run.recipe) else weights["state"], network, path)
    single = frozenset(weights.get("single_components", ()))
    return Segmenter(network, recipe.preprocess, label_names, fabric, recipe.views, single)
