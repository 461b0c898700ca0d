"""The report: complete, self-contained, safe with odd names and missing pieces, and true to the maps it draws."""

import base64
import hashlib
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

from scribbleseg.evaluation import curves, drawing, palette, pictures, report
from scribbleseg.evaluation.glossary import GLOSSARY, TUMOURS
from scribbleseg.evaluation.metrics import Score
from scribbleseg.evaluation.report import MAX_PICTURES, Origin, Picture, RunSummary, write_report
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
    maps = {"scribbles": scribbles, "pseudo_labels": seeds, "prediction": ellipses(seed + 2)}
    return Picture(case, 4, recursion, image, **maps, reference=reference, n_slices=9, sides="RLAP")


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
    assert not re.search(r"https?:|<link|<iframe|@import|src=", html)
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in html
    assert {uri[:10] for uri in re.findall(r'href="([^#][^"]*)"', html)} <= {"data:image"}
    for reference in re.findall(r'href="#([^"]+)"', html) + re.findall(r"url\(#([^)]+)\)", html):
        assert f'id="{reference}"' in html
    balance = Balance()
    balance.feed(html)
    assert balance.open == []
    return html


def figures(html: str) -> list[str]:
    return re.findall("<figure>.*?</figure>", html, re.DOTALL)


def layers(figure: str) -> list[str]:
    """The titles of a figure's tiles, column by column."""
    return [title.strip() for title in re.findall(r'<div class="piece">\s*(?:<abbr[^>]*>)?([^<]+)<', figure)]


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
    assert "slice 5 of 9" in html
    (figure,) = figures(html)
    assert layers(figure) == [
        *("Scribbles", "Image", "Seed areas", "Predicted", "Trained on", "Predicted"),
        *("Reference", "Errors of recursion 1"),
    ]
    assert re.findall(r">(Recursion \d)<", figure) == ["Recursion 0", "Recursion 1"]
    assert written(tmp_path, runs, title="Hearts") == html  # the same input, the same bytes


def test_the_worst_case_comes_first(tmp_path: Path):
    run = made_up_run("base")
    bad = made_up_score("zebra", "RV", 0.0, **MISSED)
    html = written(tmp_path, [RunSummary("base", NAMES, scores=[*run.scores, bad])])
    rows = re.findall(r'<th scope="row">([^<]+)</th>', html[html.index("Worst first") :])
    assert rows[0] == "zebra"
    assert "1 was missed altogether" in html


@pytest.mark.parametrize(
    "pieces",
    [
        {"scores": ()},
        {"metrics": ()},
        {"recipe": {}, "details": {}},
        {"scores": (), "metrics": (), "recipe": {}, "details": {}},
        {"scores": (), "metrics": [{"event": "train", "iteration": 1, "loss": 0.0}]},
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
    assert ("nothing was scored" in html) == (pieces.get("scores") == () and bool(pieces.get("metrics", True)))


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
    both = [replace(made_up_picture(), title="clusters", scribbles=None), made_up_picture()]
    runs = [
        RunSummary("WT only", ("background", "WT"), scores=scores_of(("WT",), 0.9), pictures=[whole]),
        RunSummary("WT, masks", ("background", "WT"), scores=scores_of(("WT",), 0.95), is_upper_bound=True),
        RunSummary("all", TUMOUR, scores=scores_of(("WT", "TC", "ET"), 0.7), pictures=both),
        RunSummary("all, masks", TUMOUR, scores=scores_of(("WT", "TC", "ET"), 0.8), is_upper_bound=True),
    ]
    html = written(tmp_path, runs)
    assert "scored on different structures" in html
    assert "<h2>all, the best" in html  # a higher mean Dice of whole tumours alone is no better
    assert re.findall(r"<td>(−0\.\d+)<small>", html) == ["−0.050", "−0.100"]  # each to its own upper bound
    assert "0.610" in html
    assert "0.720" in html
    first, clusters, last = figures(html)  # two of the same slice, for it has two titles
    assert layers(first) == ["Scribbles", "Image", "Reference"]
    assert layers(clusters) == ["Image", "Trained on", "Predicted", "Reference", "Errors of recursion 0"]
    assert layers(last) == ["Scribbles", "Image", "Seed areas", *layers(clusters)[2:]]
    assert "Dice NCR/NET 0" in clusters
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
    assert "0 of 9 masks are below Dice 0.5" in html
    assert "None of the 9 masks was missed" in html
    assert re.search(r"0\s+<small class=\"inline\">of 9</small>", html)
    assert "0 of 9 masks are below Dice 0.5" in written(tmp_path, runs[:1])


def decoded(uri: str, mode: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert(mode))


def test_a_label_has_one_colour_on_the_page_whatever_its_value():
    labels = np.ones((5, 6), np.uint8)
    runs = [
        RunSummary(name, ("background", name), pictures=[Picture("p", 0, 0, np.zeros((5, 6)), None, labels)])
        for name in ("WT", "ET")
    ]
    colours = pictures.label_colours([TUMOUR, *(run.label_names for run in runs)])
    assert list(colours) == ["NCR/NET", "ED", "ET", "WT"]
    assert len(set(colours.values())) == 4
    for run in runs:
        (figure,) = pictures.figures(run.pictures, run.label_names, colours, pictures.Shared())
        rgba = decoded(figure["columns"][1]["tiles"][0]["labels"], "RGBA")
        assert "#{:02x}{:02x}{:02x}".format(*rgba[2, 2]) == colours[run.name]


def test_the_upper_bound_is_the_run_that_says_so_whatever_its_name(tmp_path: Path):
    runs = [made_up_run("fully supervised"), made_up_run("masks", shift=0.1)]
    assert "Dice difference to" not in written(tmp_path, runs)
    html = written(tmp_path, [runs[0], replace(runs[1], is_upper_bound=True)])
    assert "Dice difference to<br>masks" in html
    assert "<h2>fully supervised, the best of the runs that were not fully supervised" in html


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
        ({"scribbles": np.full((5, 6), 7, np.uint8)}, r"scribbles: expected values 0 to 2 or 255, got \[7\]"),
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
    rgba = decoded(drawing.overlay(labels, ["#000000", *palette.STRUCTURE_COLOURS[:2]], background), "RGBA")
    assert np.array_equal(rgba[..., 3] > 0, (labels != UNLABELLED) & ((labels > 0) | background))
    for value, colour in enumerate(palette.STRUCTURE_COLOURS[:2], start=1):
        expected = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (rgba[labels == value, :3] == expected).all()


def test_a_contour_runs_along_the_edge_of_its_pixels():
    mask = np.zeros((9, 9), bool)
    mask[2:5, 3:8] = True
    points = np.array(
        [[float(x) for x in point.split()] for point in re.split("[MLZ]+", drawing.outline(mask)) if point]
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
    holes = replace(whole, prediction=whole.pseudo_labels)
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
    texts = set()
    for svg in curves.draw_curves([view]):
        texts |= {text.text for text in ElementTree.fromstring(svg).iter("text")}
        assert "currentColor" in svg
        assert curves.INK not in svg
    assert {"Training loss", "Pixels with a label", "Agreement with held-out scribbles"} <= texts
    assert "Pixels whose label changed" not in texts  # nothing was relabelled


def test_the_head_says_what_a_run_was_made_from(tmp_path: Path):
    def head(*runs: RunSummary) -> dict[str, list[str]]:
        (facts,) = re.findall(r'<dl class="facts">(.*?)</dl>', written(tmp_path, list(runs)), re.DOTALL)
        texts = re.sub(r"<(?!/?d[dt]\b)[^>]*>", "", facts)
        return {
            title: re.findall(r"<dd>(.*?)</dd>", values)
            for title, values in re.findall(r"<dt>(.*?)</dt>(.*?)(?=<dt>|\Z)", texts, re.DOTALL)
        }

    origin = Origin("ACDC (acdc)", "2026-03-01T14:05:59+01:00", 80, 0.00834)
    agreed = [{"event": "agreement", "recursion": r, "mean": 0.5 + r / 10} for r in range(4)]
    assert head(made_up_run("base", origin=origin, metrics=agreed)) == {
        "data set": ["ACDC (acdc)"],
        "begun": ["2026-03-01 14:05"],
        "training cases": ["80"],
        "voxels drawn": ["0.83 %"],
        "agreement with held-out scribbles": ["0.80"],  # the last recursion's
    }
    nothing = head(made_up_run("old"))
    assert nothing == {key: ["–"] for key in ("data set", "begun", "training cases", "voxels drawn")}
    both = head(made_up_run("base", origin=origin), made_up_run("masks", origin=origin, is_upper_bound=True))
    assert both["data set"] == ["ACDC (acdc)"]
    assert both["voxels drawn"] == ["0.83 % base", "all, by reference masks masks"]


def test_the_agreement_stands_in_for_scores_that_are_not_there(tmp_path: Path):
    agreed = [{"event": "agreement", "recursion": 0, "mean": 0.95}]
    html = written(tmp_path, [made_up_run("none", scores=()), made_up_run("base", scores=(), metrics=agreed)])
    assert re.search(r'<div class="figure">0\.95<small>', html)
    assert "No test case has a reference mask" in html
    assert "it says what people drew" in html


def test_pictures_have_no_millimetres(tmp_path: Path):
    def words(in_pixels: bool) -> str:
        scores = [
            made_up_score("a", "RV", 0.5, volume_error_ml=-31.2, in_pixels=in_pixels),
            made_up_score("b", "RV", 0.7, in_pixels=in_pixels),
        ]
        html = written(tmp_path, [made_up_run("base", scores=scores)])
        return re.sub(r"<style>.*?</style>|<[^>]+>", "", html, flags=re.DOTALL)

    assert re.search(r"HD95, mm.*volume error, ml", words(False), re.DOTALL)
    in_pixels = words(True)
    assert not re.search(r"\b(mm|ml)\b", in_pixels)
    assert re.search(r"HD95, px.*volume error, pixels", in_pixels, re.DOTALL)
    assert "−31" in in_pixels
    assert "−31.2" not in in_pixels


def test_runs_in_different_units_share_a_page(tmp_path: Path):
    runs = [
        made_up_run(name, scores=[made_up_score("a", "RV", 0.5, in_pixels=name == "skin")])
        for name in ("skin", "hearts")
    ]
    html = written(tmp_path, runs)
    runs_table = html[html.index("<h2>Runs") : html.index("<h2>Training")]
    assert re.findall(r"<td>5\.0 (px|mm)", runs_table) == ["px", "mm"]


ORGANS = tuple(f"organ {n}" for n in range(1, 21))


def test_twenty_structures_have_a_table_of_their_own(tmp_path: Path):
    scores = scores_of(ORGANS, 0.75)
    bad = made_up_score("case9", "organ 3", 0.0, **MISSED)
    runs = [RunSummary("first", ("background", *ORGANS), scores=[*scores, bad])]
    html = written(tmp_path, [*runs, replace(runs[0], name="second", scores=scores)])
    table, structures, cases, _ = re.findall(r"<table class=\"(?:runs|cases).*?</table>", html, re.DOTALL)
    assert "organ 7" not in table
    rows = re.findall(r"<tr>(.*?)</tr>", structures, re.DOTALL)
    assert len(rows) == 1 + 20
    assert "first" in rows[0]
    assert "second" in rows[0]
    assert all(f"organ {n}<" in row for n, row in enumerate(rows[1:], start=1))
    assert "0.562" in rows[3]
    assert all(row.count("<td>") == 2 for row in rows[1:])
    case_rows = re.findall(r"<tr>(.*?)</tr>", cases, re.DOTALL)
    assert case_rows[0].count("<th") == 2 + 20
    assert all(row.count("<td") == 1 + 20 for row in case_rows[1:])
    assert "missed" in case_rows[1]
    few = written(tmp_path, [RunSummary("first", ("background", *ORGANS[:6]), scores=scores_of(ORGANS[:6], 0.75))])
    assert "<h3>Structures" not in few


def test_twenty_structures_have_twenty_colours():
    assert len(set(pictures.label_colours([("background", *ORGANS)]).values())) == 20
    assert palette.BACKGROUND_COLOUR not in palette.STRUCTURE_COLOURS


def test_every_word_with_help_is_explained_at_the_end_too(tmp_path: Path):
    html = written(tmp_path, [made_up_run("base", pictures=[made_up_picture()])])
    helped = set(re.findall(r'<abbr title="([^"]+)"', html))
    explained = set(re.findall(r"<dd>([^<]+)</dd>", html[html.index('<dl class="glossary">') :]))
    assert {"Dice", "HD95", "ASSD", "recall", "precision", "recursion"} <= GLOSSARY.keys()
    assert len(helped) > 8
    assert helped < explained
    assert len(explained) == len(GLOSSARY)


def test_parts_of_a_tumour_are_explained_where_they_are_scored_and_nowhere_else(tmp_path: Path):
    hearts = written(tmp_path, [made_up_run("base")])
    assert not any(meaning in hearts for meaning in TUMOURS.values())
    scores = [made_up_score(f"patient{n}", name, 0.5 + n / 10) for n in range(3) for name in TUMOURS]
    brains = written(tmp_path, [replace(made_up_run("base"), scores=scores)])
    assert all(f'<abbr title="{meaning}">{name}</abbr>' in brains for name, meaning in TUMOURS.items())


def test_tables_scroll_in_a_box_of_their_own(tmp_path: Path):
    html = written(tmp_path, [made_up_run("base"), made_up_run("other")])
    assert html.count("<table") == html.count('<div class="wide"><table') > 3


def test_scribbles_are_paths_in_the_colour_of_their_label_with_a_dark_edge(tmp_path: Path):
    (figure,) = figures(written(tmp_path, [made_up_run("base", pictures=[made_up_picture()])]))
    edges = re.findall(r'<path class="edge" d="([^"]+)"', figure)
    strokes = re.findall(r'<path class="stroke" fill="([^"]+)" stroke="([^"]+)" d="([^"]+)"', figure)
    colours = [palette.BACKGROUND_COLOUR, palette.STRUCTURE_COLOURS[1]]
    assert [(fill, stroke) for fill, stroke, _ in strokes] == [(colour, colour) for colour in colours]
    assert [path for *_, path in strokes] == edges


def test_a_stroke_one_pixel_wide_is_one_path_also_where_it_is_diagonal():
    assert drawing.outline(np.eye(9, dtype=bool)).count("M") == 1


def test_pixels_have_their_true_shape_and_sides_their_letters(tmp_path: Path):
    narrow = replace(made_up_picture(), pixel=(3.0, 1.0), scribbles=None, reference=None)
    plain = replace(narrow, case="b", pixel=(1.0, 1.0), sides="", n_slices=1)
    first, second = figures(written(tmp_path, [made_up_run("base", pictures=[narrow, plain])]))
    for figure, pixel in ((first, 3.0), (second, 1.0)):
        (width, height), *_ = re.findall(r'viewBox="0 0 (\d+) (\d+)"', figure)
        aspect = float(re.search(r"--aspect:([\d.]+)", figure)[1])
        assert aspect == pytest.approx(int(width) / int(height) / pixel, abs=1e-3)
        assert 'preserveAspectRatio="none"' in figure
    assert re.findall(r'<i class="side ([lrtb])">(.)</i>', first)[:4] == list(zip("lrtb", "RLAP", strict=True))
    assert "side" not in second
    assert "slice" not in re.search(r"<figcaption>.*?</figcaption>", second)[0]


def test_a_colour_image_keeps_its_colours():
    image = np.zeros((8, 9, 3))
    image[...] = (200, 120, 40)
    image[0] = 0
    whole = (slice(0, 8), slice(0, 9))
    _, uri = drawing.embedded(image, whole)
    assert np.abs(decoded(uri, "RGB")[4, 4].astype(int) - (200, 120, 40)).max() < 8
    _, uri = drawing.embedded(image[..., 0], whole)
    assert (decoded(uri, "RGB")[4, 4] > 250).all()  # intensities are stretched


def test_images_larger_than_screens_are_made_smaller():
    _, uri = drawing.embedded(np.random.default_rng(0).normal(size=(30, 3000)), (slice(None), slice(None)))
    assert decoded(uri, "L").shape == (10, 1024)
    labels = np.repeat(np.array([[0, 1]], np.uint8), 1500, axis=1).repeat(30, axis=0)
    assert decoded(drawing.overlay(labels, ["#000000", "#ffffff"], False), "RGBA").shape == (10, 1000, 4)


@given(*(arrays(np.uint8, (5, 4), elements=st.sampled_from([0, 1, 2, UNLABELLED])) for _ in range(2)))
def test_errors_are_missed_invented_or_confused(labels, reference):
    found = drawing.error_map(labels, reference)
    for error, mine, true in zip(found.flat, labels.flat, reference.flat, strict=True):
        if UNLABELLED in (mine, true) or mine == true:
            assert error == 0
        else:
            expected = "missed" if mine == 0 else "invented" if true == 0 else "confused"
            assert drawing.ERRORS[error - 1] == expected


def test_errors_have_their_colours_and_what_is_right_none():
    reference = np.array([[0, 1, 0, 1, 2]], np.uint8)
    prediction = np.array([[0, 0, 1, 2, 2]], np.uint8)
    rgba = decoded(drawing.errors(prediction, reference), "RGBA")[0]
    assert [a for *_, a in rgba] == [0, 255, 255, 255, 0]
    assert ["#{:02x}{:02x}{:02x}".format(*pixel[:3]) for pixel in rgba[1:4]] == list(drawing.ERROR_COLOURS.values())


def test_the_page_has_no_script_but_its_own():
    script = (Path(report.__file__).parent / "report.js").read_text(encoding="utf-8")
    assert len(script.splitlines()) < 40
    assert not re.search(r"fetch|import|XMLHttp|eval|innerHTML|{{|{%", script)
