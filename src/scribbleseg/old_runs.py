"""Reads recipes and weights of runs that scribbleseg 0.1 made, before recipes had stages."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

SCHEDULE = {"adam": ("learning_rate", "decay", "decay_every"), "sgd": ("learning_rate", "momentum")}
"""The fields of each optimiser, which stood beside those of the whole training."""


def is_old(recipe: Mapping[str, Any]) -> bool:
    """Whether a recipe.json is of 0.1: it does not say which pipeline it belongs to."""
    return "kind" not in recipe


def renewed(old: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe of 0.1, as plain data, in the fields of today."""
    if "whole" in old:
        phases = {phase: renewed(old[phase]) for phase in ("whole", "substructures")}
        return {"kind": "hierarchy", "clusters": old["clusters"], "scribbles": old["scribbles"], **phases}
    kept = ("annotation", "preprocess", "seeds", "augment", "stop_below")
    return {"kind": "em", "network": _network(old["network"]), "stages": _stages(old)} | _only(old, kept)


def renewed_data(data: Mapping[str, Any]) -> dict[str, Any]:
    """What a run of 0.1 says of its data set, so that it is opened as it was then."""
    options = dict(data["options"])
    if data["format"] == "acdc" and options.get("split") == "paper":
        options["split"] = "paper_validation"  # the validation volumes were called test cases
    if data["format"] == "nci_isbi" and "split" in options:
        options["split"] = options["split"].replace("paper", "both")  # patients of both collections, by turns
    if data["format"] == "brats" and "fold" in options:
        options["folds"] = 4
    return {**data, "options": options}


def renamed_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of 0.1 by the names of today: the network inside a CRF-RNN was called `unet`."""
    return {re.sub(r"^unet\.", "unaries.", name): weights for name, weights in state.items()}


def _network(old: Mapping[str, Any]) -> dict[str, Any]:
    if old["kind"] != "crf_rnn":
        return dict(old)
    kept = {name: value for name, value in old.items() if name not in ("unet", "unet_updates")}
    return kept | {"unaries": old["unet"], "network_updates": old["unet_updates"]}


def _stages(old: Mapping[str, Any]) -> list[dict[str, Any]]:
    training = old["training"]
    kind = training.get("kind", "adam")
    shared = {"batch": training["batch"], "optimiser": {"kind": kind, **_only(training, SCHEDULE[kind])}}
    losses = [old.get("loss", {"kind": "partial_cross_entropy"})]
    stages = [{"iterations": training["iterations"], "losses": losses, **shared}]
    if old["recursions"]:
        again = {"iterations": training["iterations_again"], "times": old["recursions"], **shared}
        again["losses"] = [*losses, old["crf"]] if old.get("crf") else losses
        if old["decide"]["kind"] != "keep":
            again["relabel"] = _only(old, ("refine", "decide"))
        stages.append(again)
    return stages


def _only(data: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: data[name] for name in names if name in data}
