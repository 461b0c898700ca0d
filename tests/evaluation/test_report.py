"""The report: complete, self-contained, safe with odd names and missing pieces, and true to the maps it draws."""

import base64
import io
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from scribbleseg.evaluation import curves, pictures
from scribbleseg.evaluation.metrics import Score
from scribbleseg.evaluation.report import MAX_PICTURES, Picture, RunSummary, write_report
from scribbleseg.types import UNLABELLED, DataError

NAMES = ("background", "RV", "LV")
VOID = {"meta", "br", "link", "img", "input", "hr"}


class Balance(HTMLParser):
    """Fails where a tag is not closed in its turn."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def ellipses(seed: int, shape: tuple[int, int] = (48, 40)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint8)
    y, x = np.mgrid[: shape[0], : shape[1]]
    for value, radius in ((1, 9), (2, 5)):
        cy, cx = rng.uniform(18, 24, 2)
        labels[((y - cy) / 1.3) ** 2 + (x - cx) ** 2 < radius**2] = value
    return labels


def made_up_picture(case: str = "patient01", recursion: int | None = 0, seed: int = 0) -> Picture:
    reference = ellipses(1)
    image = reference * 100 + np.random.default_rng(seed).normal(0, 5, reference.shape)
    scribbles = np.full_like(reference, UNLABELLED)
    scribbles[20, 18:22] = 2
    scribbles[3, 5:30] = 0
    seeds = np.where(image > 60, reference, UNLABELLED).astype(np.uint8)
    maps = {"scribbles": scribbles, "seeds": seeds, "pseudo_labels": seeds, "prediction": ellipses(seed + 2)}
    return Picture(case, 4, recursion, image, **maps, reference=reference)


def made_up_score(case: str, structure: str, dice: float, **others: float) -> Score:
    numbers = {"recall": 0.61, "precision": 0.72, "hd95_mm": 5.0, "assd_mm": 1.0}
    volumes = {"volume_ml": 100.0, "reference_volume_ml": 110.0, "volume_error_ml": -10.0, "empty_slices_ml": 0.0}
    return Score(case, structure, dice, **numbers | volumes | others)


MISSED = {"recall": 0.0, "precision": 0.0, "hd95_mm": math.nan, "assd_mm": math.nan, "volume_ml": 0.0}


def made_up_run(name: str, shift: float = 0.0, cases: int = 14, **pieces: object) -> RunSummary:
    rng = np.random.default_rng(0)
    scores = [
        made_up_score(f"patient{case:02d}", structure, float(rng.uniform(0.6, 0.8)) + shift)
        for case in range(cases)
        for structure in NAMES[1:]
    ]
    metrics = [{"event": "relabel", "recursion": 0, "labelled": 0.6}]
    metrics += [{"event": "train", "recursion": 0, "iteration": i, "loss": 1 / i} for i in range(1, 90)]
    metrics += [{"event": "relabel", "recursion": 1, "labelled": 0.95, "changed": 0.02, "per_label": {"RV": 0.1}}]
    recipe = {"seeds": {"tau": 0.99}, "recursions": 3}
    return RunSummary(
        name, NAMES, **{"recipe": recipe, "details": {"seed": 7}, "metrics": metrics, "scores": scores} | pieces
    )


def written(path: Path, runs: list[RunSummary], **options: str) -> str:
    """The page, after the checks that hold for every report."""
    write_report(path / "report.html", runs, **options)
    html = (path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|<script|<link|<iframe|@import|src=", html)
    assert {uri[:10] for uri in re.findall(r'href="([^#][^"]*)"', html)} <= {"data:image"}
    for reference in re.findall(r'href="#([^"]+)"', html) + re.findall(r"url\(#([^)]+)\)", html):
        assert f'id="{reference}"' in html
    balance = Balance()
    balance.feed(html)
    assert balance.open == []
    return html


def test_a_report_names_every_run_case_and_setting(tmp_path: Path):
    pictures = [made_up_picture(recursion=r, seed=r) for r in (0, 1)]
    runs = [made_up_run("base", pictures=pictures), made_up_run("fully supervised", shift=0.1, is_upper_bound=True)]
    html = written(tmp_path, runs, title="Hearts")
    for text in (
        "Hearts",
        "base",
        "fully supervised",
        "patient00",
        "patient13",
        "RV",
        "LV",
        "seeds.tau",
        "0.99",
        "seed",
    ):
        assert text in html
    assert "−0.100" in html  # the difference to full supervision
    for layer in ("Image", "Scribbles", "Seeds", "Pseudo-labels", "Prediction", "Reference", "recursion 1"):
        assert f">{layer}" in html
    assert written(tmp_path, runs, title="Hearts") == html  # the same input, the same bytes


def test_the_worst_case_comes_first(tmp_path: Path):
    run = made_up_run("base")
    bad = made_up_score("zebra", "RV", 0.0, **MISSED)
    html = written(tmp_path, [RunSummary("base", NAMES, scores=[*run.scores, bad])])
    rows = re.findall(r'<th scope="row">([^<]+)</th>', html[html.index("Worst first") :])
    assert rows[0] == "zebra"
    assert "1 missed altogether" in html


@pytest.mark.parametrize(
    "pieces",
    [
        {"scores": ()},
        {"metrics": ()},
        {"recipe": {}, "details": {}},
        {"scores": (), "metrics": (), "recipe": {}, "details": {}},
        {"metrics": [{"event": "train", "iteration": 1, "loss": 0.0}]},
        {"metrics": [{"event": "relabel", "recursion": 0, "labelled": 0.5}]},
        {"metrics": [{"event": "train", "recursion": 0, "iteration": i, "loss": math.nan} for i in range(3)]},
        {"scores": [made_up_score("one", "RV", 0.5)]},
        {"pictures": [Picture("p", 0, None, np.zeros((5, 6)))]},
        {"pictures": [Picture("p", 0, None, np.full((5, 6), np.nan), prediction=np.zeros((5, 6), np.uint8))]},
    ],
)
def test_missing_pieces_are_left_out(pieces, tmp_path: Path):
    html = written(tmp_path, [made_up_run("base", **pieces), RunSummary("only a name", ())])
    assert "only a name" in html
    assert ("Nothing has been scored" in html) == (pieces.get("scores") == ())


def test_names_are_text_never_markup(tmp_path: Path):
    name = '<b onclick="x">&$\\frac$</b> 心'
    run = made_up_run(name, scores=[made_up_score(name, "RV", 0.5)])
    html = written(tmp_path, [made_up_run(name, pictures=[made_up_picture(name)]), run], title=name)
    assert "<b onclick" not in html
    assert "&lt;b onclick=&#34;x&#34;&gt;&amp;$\\frac$&lt;/b&gt; 心" in html


def test_runs_on_different_cases_are_not_compared_without_saying_so(tmp_path: Path):
    runs = [made_up_run("base", cases=5), made_up_run("fully supervised", cases=4, is_upper_bound=True)]
    html = written(tmp_path, runs)
    assert "scored on different cases" in html
    assert "4 cases" in html
    assert "scored on different cases" not in written(tmp_path, [made_up_run("base"), made_up_run("other")])


TUMOUR = ("background", "NCR/NET", "ED", "ET")


def scores_of(structures: tuple[str, ...], dice: float) -> list[Score]:
    return [made_up_score(f"case{i}", s, dice) for i in range(3) for s in structures]


def test_runs_with_other_labels_and_other_structures_share_a_page(tmp_path: Path):
    whole = Picture("a", 4, 0, np.eye(9), scribbles=np.eye(9, dtype=np.uint8), reference=np.eye(9, dtype=np.uint8))
    both = [replace(made_up_picture(), title="clusters", scribbles=None, seeds=None), made_up_picture()]
    runs = [
        RunSummary("WT only", ("background", "WT"), scores=scores_of(("WT",), 0.9), pictures=[whole]),
        RunSummary("WT, masks", ("background", "WT"), scores=scores_of(("WT",), 0.95), is_upper_bound=True),
        RunSummary("all", TUMOUR, scores=scores_of(("WT", "TC", "ET"), 0.7), pictures=both),
        RunSummary("all, masks", TUMOUR, scores=scores_of(("WT", "TC", "ET"), 0.8), is_upper_bound=True),
    ]
    html = written(tmp_path, runs)
    assert "scored on different structures" in html
    assert "<b>all</b>, the best" in html  # a higher mean Dice of whole tumours alone is no better
    assert re.findall(r"<td>(−0\.\d+)<small>", html) == ["−0.050", "−0.100"]  # each to its own upper bound
    assert "0.610" in html
    assert "0.720" in html
    figures = re.findall("<figure>.*?</figure>", html, re.DOTALL)  # two of the same slice, for it has two titles
    layers = [re.findall(r'<span class="soft">([^<]+)</span>', figure) for figure in figures]
    assert layers[0] == ["Image", "Scribbles", "Reference"]
    assert layers[1] == ["clusters", "Image", "Pseudo-labels", "Prediction", "Reference"]
    assert layers[2] == ["Image", "Scribbles", "Seeds", "Pseudo-labels", "Prediction", "Reference"]
    assert "<br>NCR/NET 0" in figures[1]
    assert "scored on different structures" not in written(tmp_path, runs[:2])


def test_the_papers_figures_stand_beside_those_of_the_run(tmp_path: Path):
    plain = RunSummary("row", TUMOUR, scores=scores_of(("WT", "TC", "ET"), 0.7))
    assert "(paper" not in written(tmp_path, [plain])
    html = written(tmp_path, [replace(plain, paper={"WT": 0.9123, "ET": 0.5, "mean": 0.7001, "recall": 0.3})])
    cells = re.findall(r"<td>(?:<b>)?([0-9.]+).*?(?=</td>)", html[html.index("<h2>Runs") :], re.DOTALL)
    assert cells[0] == "0.700"
    assert re.findall(r"\(paper ([0-9.]+)\)", html) == ["0.700", "0.912", "0.500"]  # the mean, WT, ET; not recall
    mean, *structures = re.findall(r"<td>(?:<b>)?0\.700.*?</td>", html, re.DOTALL)
    assert "(paper 0.700)" in mean
    assert ["(paper" in cell for cell in structures] == [True, False, True]


def test_an_auxiliary_region_is_shown_and_left_out_of_every_sum(tmp_path: Path):
    main = scores_of(("WT", "TC", "ET"), 0.7)
    bad = [made_up_score(f"case{i}", "WT*", 0.1 * i, **MISSED) for i in range(3)]
    runs = [
        RunSummary("without", TUMOUR, scores=main),
        RunSummary("with", TUMOUR, scores=[*main, *bad]),
    ]
    html = written(tmp_path, runs[1:])
    assert "WT*" in html
    assert ">0.700</b>" in html[html.index("<h2>Runs") :]
    assert "0 of 9 masks below Dice 0.5" in html
    assert "missed altogether" not in html
    assert "0 <small>of 9</small>" in html
    assert "0 of 9 masks below Dice 0.5" in written(tmp_path, runs[:1])


def test_a_label_has_one_colour_on_the_page_whatever_its_value():
    labels = np.ones((5, 6), np.uint8)
    runs = [
        RunSummary(name, ("background", name), pictures=[Picture("p", 0, 0, np.zeros((5, 6)), labels)])
        for name in ("WT", "ET")
    ]
    colours = pictures.label_colours([TUMOUR, *(run.label_names for run in runs)])
    assert list(colours) == ["NCR/NET", "ED", "ET", "WT"]
    assert len(set(colours.values())) == 4
    for run in runs:
        (figure,) = pictures.picture_groups(run.pictures, run.label_names, colours, {})
        uri = figure["rows"][0]["tiles"][1]["overlay"]
        rgba = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGBA"))
        assert "#{:02x}{:02x}{:02x}".format(*rgba[2, 2]) == colours[run.name]


def test_the_upper_bound_is_the_run_that_says_so_whatever_its_name(tmp_path: Path):
    runs = [made_up_run("fully supervised"), made_up_run("masks", shift=0.1)]
    assert "Dice difference to" not in written(tmp_path, runs)
    html = written(tmp_path, [runs[0], replace(runs[1], is_upper_bound=True)])
    assert "Dice difference to<br>masks" in html
    assert "<b>fully supervised</b>, the best of the runs that were not fully supervised" in html


def test_a_report_holds_so_many_pictures_and_each_image_once(tmp_path: Path):
    pictures = [made_up_picture(f"case{i}", seed=i % 3) for i in range(MAX_PICTURES + 5)]
    html = written(tmp_path, [made_up_run("base", pictures=pictures), made_up_run("other", pictures=pictures[:3])])
    assert "5 more pictures" in html
    assert html.count("data:image/jpeg") == 3
    assert len(html) < 1_000_000


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"prediction": np.zeros((5, 5), np.uint8)}, "case p, slice 2, prediction: expected the image's shape"),
        ({"seeds": np.full((5, 6), 7, np.uint8)}, r"seeds: expected values 0 to 2 or 255, got \[7\]"),
    ],
)
def test_a_picture_that_does_not_fit_is_refused_and_nothing_written(layers, message, tmp_path: Path):
    with pytest.raises(DataError, match=message):
        written(tmp_path, [RunSummary("base", NAMES, pictures=[Picture("p", 2, 0, np.zeros((5, 6)), **layers)])])
    with pytest.raises(DataError, match="at least one run"):
        written(tmp_path, [])
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=25, deadline=None)
@given(arrays(np.uint8, (6, 7), elements=st.sampled_from([0, 1, 2, UNLABELLED])), st.booleans())
def test_an_overlay_shows_each_label_in_its_colour_and_unlabelled_not_at_all(labels, background):
    uri = pictures._overlay(labels, ["#000000", *pictures.STRUCTURE_COLOURS[:2]], 0.5, background)
    rgba = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGBA"))
    assert np.array_equal(rgba[..., 3] > 0, (labels != UNLABELLED) & ((labels > 0) | background))
    for value, colour in enumerate(pictures.STRUCTURE_COLOURS[:2], start=1):
        expected = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (rgba[labels == value, :3] == expected).all()


def test_a_contour_runs_along_the_edge_of_its_pixels():
    mask = np.zeros((9, 9), bool)
    mask[2:5, 3:8] = True
    points = np.array(
        [[float(x) for x in point.split()] for point in re.split("[MLZ]+", pictures._contour(mask)) if point]
    )
    x, y = points.T
    assert (x.min(), x.max(), y.min(), y.max()) == (3, 8, 2, 5)
    area = 0.5 * abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))
    assert area == pytest.approx(3 * 5, abs=0.6)  # the four corners are cut


@given(st.lists(st.tuples(st.integers(0, 69), st.integers(0, 89)), max_size=3))
def test_a_picture_never_cuts_a_structure_off(structure):
    labels = np.full((70, 90), UNLABELLED, np.uint8)
    labels[:2] = 0
    for pixel in structure:
        labels[pixel] = 1
    box = pictures._box([Picture("p", 0, 0, np.zeros((70, 90)), prediction=labels)])
    assert np.count_nonzero(labels[box] == 1) == len(set(structure))


def test_a_slice_has_a_dice_only_where_both_maps_are_complete(tmp_path: Path):
    whole = made_up_picture()
    holes = replace(whole, prediction=whole.seeds)
    assert pictures._slice_dice(whole, NAMES).keys() == {"RV", "LV"}
    assert pictures._slice_dice(holes, NAMES) == {}
    assert "Dice of this slice" in written(tmp_path, [RunSummary("base", NAMES, pictures=[whole])])
    assert "Dice of this slice" not in written(tmp_path, [RunSummary("base", NAMES, pictures=[holes])])


def test_a_resumed_run_and_recursions_that_count_anew_make_one_loss_curve():
    records = [
        {"recursion": 0, "iteration": 10, "loss": 3.0},
        {"recursion": 0, "iteration": 20, "loss": 9.0},  # recorded, then killed before the checkpoint
        {"recursion": 0, "iteration": 20, "loss": 2.0},
        {"recursion": 1, "iteration": 10, "loss": 1.0},
    ]
    assert curves.loss_curve(records) == ([10, 20, 30], [3.0, 2.0, 1.0])
    going_on = [{"recursion": r, "iteration": 10 * (r + 1), "loss": 1.0} for r in range(3)]
    assert curves.loss_curve(going_on)[0] == [10, 20, 30]


def test_the_curves_are_sound_svg_in_the_colour_of_the_text():
    view = {
        "loss": ([1.0, 2.0], [1.0, 0.5]),
        "by_recursion": {"labelled": [(0, 0.5)], "changed": [], "agreement": [(0, 0.9)]},
        "colour": "#4477aa",
    }
    svg = curves.draw_curves([view])
    root = ElementTree.fromstring(svg)
    assert "currentColor" in svg
    assert curves.INK not in svg
    texts = {text.text for text in root.iter("text")}
    assert {"Training loss", "Pixels with a label", "Agreement with held-out scribbles"} <= texts
    assert "Pixels whose label changed" not in texts  # nothing was relabelled
