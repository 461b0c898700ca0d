"""The names of all recipes and what each is, in words, so that they can be listed without making the recipes.

Making them takes the networks, and these PyTorch: ten seconds and half a gigabyte.
"""

CAN2018_TITLES = {
    "no_recursion": "Base (no recursion)",
    "base": "Base",
    "crf": "Base + separate CRF",
    "crf_rnn": "Base + CRF-RNN",
    "uncertainty": "Base + uncertainty",
    "crf_uncertainty": "Base + sep. CRF & unc.",
    "crf_rnn_uncertainty": "Base + CRF-RNN & unc.",
    "full": "Fully supervised",
}
"""How the recipes' names end, and the rows of Table 1 of Can et al. 2018 in its order, titled as in the paper."""

JI2019_TITLES = {
    "wt_full": "WT Full",
    "wt_sc": "WT SC",
    "wt_sc_crf": "WT SC+CRF",
    "wt_sc_gc": "WT SC+GC",
    "wt_sc_gc_crf": "WT SC+GC+CRF",
    "sub_full": "Full",
    "sub_true_sc_crf": "TrueSC+CRF",
    "sub_km": "KM",
    "sub_km_sc": "KM+SC",
    "sub_km_sc_crf": "KM+SC+CRF",
}
"""How the recipes' names end, and the rows of Table 1 of Ji et al. 2019 in its order: phase 1 on its left, phase 2 on
its right."""

SCALES = {
    "default": {
        "quick": "for any organ: an hour or two on a laptop's CPU",
        "standard": "for any organ: an afternoon on a CPU",
        "long": "for any organ: for a GPU",
        "quick3d": "in 3-D, for volumes of thin slices: worse on a CPU, not measured on a GPU",
    },
    "can2018": {
        "acdc": "Can et al. 2018, hearts, the paper's scale: for a GPU",
        "prostate": "Can et al. 2018, prostates, the paper's scale: for a GPU",
        "compact": "Can et al. 2018, hearts: hours on a CPU",
        "compact_prostate": "Can et al. 2018, prostates: hours on a CPU",
        "demo": "Can et al. 2018, for `scribbleseg demo`: minutes on a CPU",
    },
    "ji2019": {
        "": "Ji et al. 2019, brain tumours, the paper's scale: for a GPU",
        "compact": "Ji et al. 2019, brain tumours: hours on a CPU",
        "demo": "Ji et al. 2019, for `scribbleseg demo --organ tumour`: minutes on a CPU",
    },
}
"""What a recipe is for and how long it takes, roughly, by its module and by how its name begins."""

ENDS = {
    "default": {"": "from scribbles", "full": "from full masks, to compare with scribbles"},
    "can2018": {
        **CAN2018_TITLES,
        "strokes": "Base (no recursion) without seed areas; not in the paper",
        "augmented": "Base with augmentation; not in the paper",
        "unaugmented": "Base without augmentation; not in the paper",
    },
    "ji2019": {**JI2019_TITLES, "full": "KM+SC+CRF, the whole pipeline"},
}
"""What a recipe is, by its module and by how its name ends."""

DEMOS = {"can2018": ("no_recursion", "base", "full"), "ji2019": ("full", "sub_full")}
"""The recipes that `scribbleseg demo` has at its own scale, by module and by how their names end."""


def names(module: str) -> dict[str, tuple[str, str]]:
    """The names of the recipes of a module, in order, each with how it begins (a scale) and how it ends."""
    scales = [scale for scale in SCALES[module] if scale != "demo"]
    found = [(scale, end) for scale in scales for end in ENDS[module]]
    found += [("demo", end) for end in DEMOS.get(module, ())]
    return {"_".join(filter(None, parts)): parts for parts in found}


def families() -> dict[str, dict[str, str]]:
    """What each recipe is, by its family and its name; a family is a module's recipes of one scale."""
    found: dict[str, dict[str, str]] = {}
    for module in SCALES:
        for name, (scale, end) in names(module).items():
            family = found.setdefault(".".join(filter(None, (module, scale))), {})
            family[f"{module}.{name}"] = ENDS[module][end]
    return found


def about(family: str) -> str:
    """What the recipes of a family are for, and roughly how long they take."""
    module, _, scale = family.partition(".")
    return SCALES[module][scale]


def described() -> dict[str, str]:
    """What each recipe is, what for, and roughly how long it takes, by its name; our own come first."""
    return {
        f"{module}.{name}": ", ".join((ENDS[module][end], SCALES[module][scale]))
        if module == "default"
        else "; ".join((SCALES[module][scale], ENDS[module][end]))
        for module in SCALES
        for name, (scale, end) in names(module).items()
    }
