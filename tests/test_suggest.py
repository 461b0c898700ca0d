"""Where to draw next, against its slow version, by what must not change it, and on cases that anybody can judge."""

from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np
import pytest
from lightning_fabric import Fabric

from scribbleseg.data import folder
from scribbleseg.data.preprocess import Preprocess
from scribbleseg.phantoms import write_phantoms
from scribbleseg.ranking import MOST_CASES, Look, Stack, Suggestion, rank
from scribbleseg.relabel.predict import Segmenter
from scribbleseg.suggest import SURE, _by_slice, look, suggest
from scribbleseg.training.unet import UNet
from scribbleseg.types import UNLABELLED, Case, Cases, DataError, Geometry, Parts

NAMES = ("background", "RV", "LV")


class Known(Segmenter):
    """A segmenter whose probabilities are given: a made-up part of the image, which is 0 outside of structures."""

    def parts(self, case: Case) -> Parts:
        slices = self.preprocess.turn(case.geometry)(case.image).swapaxes(0, 1).astype(np.float32)
        for start in range(0, len(slices), 4):
            part = slices[start : start + 4]
            likely = np.concatenate([1 - part.sum(axis=1, keepdims=True), part], axis=1)
            yield slice(start, start + len(part)), likely


def known() -> Segmenter:
    grid = Preprocess(spacing_mm=1.0, size=16)
    fabric = Fabric(accelerator="cpu", devices=1)
    return Known(UNet(base=4, padded=True).build(2, 3), grid, NAMES, fabric)


def a_look(case: str, slices: int, rng: np.random.Generator, structures: int = 2, spacing_mm: float = 5.0) -> Look:
    doubt, area = rng.uniform(0, 50, (2, structures, slices)) * (rng.random((2, structures, slices)) < 0.7)
    area[:, :1] = 0
    if rng.random() < 0.3:
        area[rng.integers(structures)] = 0
    stack = Stack(case, slices, 0, "axial", spacing_mm, "mm")
    return Look(stack, doubt, area, rng.uniform(1, 90, (structures, slices)), rng.random(slices) < 0.2)


def some_looks(seed: int) -> list[Look]:
    rng = np.random.default_rng(seed)
    return [a_look(f"case{n}", int(rng.integers(1, 12)), rng, spacing_mm=rng.uniform(1, 9)) for n in range(5)]


def slow_rank(looks: list[Look], count: int) -> list[tuple[str, int, float]]:
    """At every turn, the distance of every slice of every case to what is drawn, and the doubt of its gap."""
    n_structures = len(looks[0].area)
    usual = []
    for s in range(n_structures):
        there = [area for each in looks for area in each.area[s] if area > 0]
        usual.append(np.mean(there) if there else np.inf)

    def worth(each: Look, z: int) -> float:
        value = 0.0
        for s in range(n_structures):
            value += each.doubt[s, z] / usual[s]
            lacking = sum(not other.area[s].any() for other in looks) / len(looks)
            expected = lacking <= 1 - MOST_CASES if each.present is None else s + 1 in each.present
            if expected and not each.area[s].any():
                value += each.likely[s, z] / max(each.likely[s])
        return value

    def gap(each: Look, z: int, drawn: set[int]) -> list[int]:
        return [other for other in range(each.stack.slices) if not drawn & set(range(min(z, other), max(z, other) + 1))]

    drawn = {each.stack.case: set(np.flatnonzero(each.drawn).tolist()) for each in looks}
    found = []
    for _ in range(count):
        tried = []
        for each in looks:
            there = drawn[each.stack.case]
            for z in set(range(each.stack.slices)) - there:
                here = gap(each, z, there)
                off_middle = abs(z - (here[0] + here[-1]) / 2)
                doubt = sum(worth(each, other) for other in here)
                tried.append((len(there), len(here), -off_middle, -z, doubt, each.stack.case))
        if not tried:
            break
        fewest = min(one[0] for one in tried)
        best = {case: max(one[1:4] for one in tried if one[-1] == case) for *_, case in tried}
        left = [one for one in tried if one[0] == fewest and one[1:4] == best[one[-1]]]
        *_, minus_z, doubt, case = max(left, key=lambda one: one[4])
        drawn[case].add(-minus_z)
        found.append((case, -minus_z, doubt))
    return found


@pytest.mark.parametrize("seed", range(6))
def test_a_ranking_is_that_of_its_slow_version(seed):
    looks = some_looks(seed)
    if seed == 5:
        looks = [replace(each, present=frozenset({1 + n % 2})) for n, each in enumerate(looks)]
    expected, found = slow_rank(looks, 12), rank(looks, NAMES, 12)
    assert [(each.case, each.slice) for each in found] == [one[:2] for one in expected]
    assert [each.doubt for each in found] == pytest.approx([doubt for *_, doubt in expected])


@pytest.mark.parametrize("seed", range(4))
def test_a_ranking_does_not_depend_on_the_order_of_the_cases_and_names_no_slice_twice_or_with_strokes(seed):
    looks = some_looks(seed)
    found = rank(looks, NAMES, 1000)
    assert found == rank(looks[::-1], NAMES, 1000) == rank(iter(looks), NAMES, 1000)
    free = {(each.stack.case, z) for each in looks for z in np.flatnonzero(~each.drawn).tolist()}
    assert len(found) == len(free)
    assert {(each.case, each.slice) for each in found} == free
    assert rank(looks, NAMES, 3) == found[:3]


def test_nothing_to_rank_is_nothing():
    assert rank([], NAMES) == []
    full = replace(some_looks(0)[0], drawn=np.ones(some_looks(0)[0].stack.slices, bool))
    assert rank([full], NAMES) == []


def plain(case: str, slices: int = 9, drawn: tuple[int, ...] = (), **values: np.ndarray) -> Look:
    """A case of which nothing is in doubt, and in which all structures are found in every slice."""
    doubt, area = np.zeros((2, slices)), np.full((2, slices), 100.0)
    there = np.zeros(slices, bool)
    there[list(drawn)] = True
    seen = Look(Stack(case, slices, 0, "axial", 8.0, "mm"), doubt, area, area, there)
    return replace(seen, **values)


def doubt_at(*places: tuple[int, int, float], slices: int = 9) -> np.ndarray:
    doubt = np.zeros((2, slices))
    for structure, z, area in places:
        doubt[structure, z] = area
    return doubt


def test_of_cases_with_as_few_strokes_the_one_most_in_doubt_comes_first_and_why_is_said():
    looks = [plain("a", drawn=(4,)), plain("b", drawn=(4,), doubt=doubt_at((1, 1, 340.0))), plain("c", drawn=(3, 5))]
    first, second, third, *_ = rank(looks, NAMES)
    assert (first.case, first.slice, first.structure) == ("b", 1, "LV")
    assert first.why == "LV in doubt, 3.4 cm²; the nearest strokes are 3 slices away"
    assert (second.case, second.structure) == ("a", "")
    assert second.why.startswith("nothing left in doubt")
    assert third.case in ("a", "b", "c")


def test_doubt_does_not_choose_the_slice():
    looks = [plain("a", drawn=(4,), doubt=doubt_at((0, 8, 450.0)))]
    assert [each.slice for each in rank(looks, NAMES, 3)] == [1, 6, 2]


def test_a_case_without_strokes_comes_before_one_with_them():
    assert [each.case for each in rank([plain("a", drawn=(2, 6)), plain("b")], NAMES, 1)] == ["b"]
    assert "no strokes in this case" in rank([plain("b")], NAMES, 1)[0].why


def test_slices_are_spread_evenly():
    assert [each.slice for each in rank([plain("a", slices=15)], NAMES, 7)] == [7, 3, 11, 1, 5, 9, 13]


def test_a_structure_that_most_cases_have_is_missed_where_it_is_not_found():
    likely = np.ones((2, 9))
    likely[0, 6] = 5.0
    area = np.stack([np.zeros(9), np.full(9, 100.0)])
    lacking = plain("b", drawn=(2,), area=area, likely=likely)
    first, *_ = rank([plain("a", drawn=(2,)), lacking, plain("c", drawn=(2,))], NAMES)
    assert (first.case, first.slice, first.structure) == ("b", 5, "RV")
    assert "RV is found in no slice of this case" in first.why
    absent = replace(lacking, present=frozenset({2}))
    assert all(each.structure == "" for each in rank([plain("a", drawn=(2,)), absent], NAMES))
    rare = [replace(lacking, stack=replace(lacking.stack, case=name)) for name in "def"]
    assert all(each.structure == "" for each in rank([plain("a", drawn=(2,)), *rare], NAMES))


def test_pictures_are_counted_in_pixels_and_have_one_slice():
    stack = Stack("a", 1, 0, "", 1.0, "px")
    picture = Look(stack, np.array([[70.0], [0.0]]), np.full((2, 1), 50.0), np.ones((2, 1)), np.zeros(1, bool))
    others = [replace(picture, stack=replace(stack, case=name), doubt=picture.doubt * share) for name, share in
              (("b", 2.0), ("c", 0.5))]  # fmt: skip
    found = rank([picture, *others], NAMES)
    assert [each.case for each in found] == ["b", "a", "c"]
    assert found[1].why == "RV in doubt, 70 px²; no strokes in this case"


def test_what_is_in_doubt_is_that_of_a_loop_over_pixels():
    rng = np.random.default_rng(0)
    sharp = np.kron(rng.normal(0, 3, (3, 2, 4, 4)), np.ones((1, 1, 4, 4))) + rng.normal(0, 0.5, (3, 2, 16, 16))
    likely = (np.exp(sharp) / np.exp(sharp).sum(axis=0)).astype(np.float32)
    found = _by_slice(likely.swapaxes(0, 1))
    labels = likely.argmax(axis=0)
    expected = np.zeros((3, 2, 2))
    for z, y, x in product(range(2), range(16), range(16)):
        here = likely[:, z, y, x]
        expected[2, :, z] += here[1:]
        if labels[z, y, x]:
            expected[1, labels[z, y, x] - 1, z] += 1
        if max(here) < SURE:
            expected[0, int(here[1] < here[2]), z] += 1 - max(here)
    assert expected[0].all()
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def a_case(name: str, affine: np.ndarray, axis: int, doubtful: int | None = None, drawn: int | None = None) -> Case:
    """Six slices along an axis of the array; the network is sure of a square of LV in all but one of them."""
    stacked = np.zeros((2, 6, 16, 16), np.float32)
    stacked[1, :, 4:12, 4:12] = 1.0
    strokes = np.full((6, 16, 16), UNLABELLED, np.uint8)
    if doubtful is not None:
        stacked[1, doubtful] *= 0.6
    if drawn is not None:
        strokes[drawn, 8, 4:12] = 2
    image = np.ascontiguousarray(np.moveaxis(stacked, 1, axis + 1))
    scribbles = np.ascontiguousarray(np.moveaxis(strokes, 0, axis))
    return Case(name, image, scribbles, Geometry(scribbles.shape, affine))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_count_as_they_are_stored(axis, sign):
    mm = np.array([1.5, 1.5, 1.5])
    mm[axis - 2] = 2.0
    mm[2 - axis] = 6.0 * sign
    case = a_case("a", np.diag([*mm, 1.0]), axis, doubtful=4, drawn=1)
    area_mm2 = abs(mm.prod()) / 6
    grid = Preprocess(spacing_mm=1.0, size=16, orientation="SPL")
    seen = look(replace(known(), preprocess=grid), case)
    assert (seen.stack.axis, seen.stack.slices, seen.stack.spacing_mm) == (axis, 6, 6.0)
    assert seen.stack.plane == ("axial", "coronal", "sagittal")[axis]
    assert np.flatnonzero(seen.drawn).tolist() == [1]
    assert np.flatnonzero(seen.doubt[1]).tolist() == [4]
    assert seen.doubt[1, 4] == pytest.approx(0.4 * 64 * area_mm2)
    assert seen.area[1].tolist() == [64.0 * area_mm2] * 6
    assert not seen.doubt[0].any()
    assert rank([seen], NAMES)[0].slice == 3


def test_masks_are_not_looked_at_and_images_without_strokes_are_ranked(tmp_path):
    root = write_phantoms(tmp_path / "hearts", train=2, test=2, shape=(4, 32, 32))
    (root / "masks" / "test001.nii.gz").unlink()

    def never(name: str) -> None:
        raise AssertionError(name)

    dataset = replace(folder(root), read_reference=never)
    assert dataset.undrawn == ("test001",)
    assert dataset.to_draw_in.names == ("train000", "train001", "test001")
    assert dataset.to_draw_in.geometry("test001").shape == dataset.test.geometry("test001").shape
    segmenter = Segmenter(
        UNet(base=4, padded=True).build(1, 4), Preprocess(spacing_mm=4.0, size=16), dataset.label_names,
        Fabric(accelerator="cpu", devices=1),
    )  # fmt: skip
    found = suggest(segmenter, dataset.to_draw_in, 3)
    assert [type(each) for each in found] == [Suggestion] * 3
    assert found == suggest(segmenter, dataset.to_draw_in.only(("test001", "train001", "train000")), 3)
    assert {each.case for each in found} == {"test001"}  # phantoms have strokes in every slice of training cases


def test_a_case_that_cannot_be_read_is_refused():
    def read(name: str) -> Case:
        raise DataError(f"{name} is damaged")

    with pytest.raises(DataError, match="a is damaged"):
        suggest(known(), Cases(["a"], read))


def test_a_whole_ranking_of_cases_at_once():
    affine = np.diag([1.0, 1.0, 6.0, 1.0])
    cases = {"a": a_case("a", affine, 0, drawn=0), "b": a_case("b", affine, 0, doubtful=2, drawn=0)}
    found = suggest(known(), Cases(list(cases), partial(dict.__getitem__, cases)), 4)
    assert (found[0].case, found[0].slice, found[0].structure) == ("b", 3, "LV")


@pytest.mark.parametrize(("present", "expected"), [({2, 3}, {1}), (set(), set()), (None, None)])
def test_a_region_is_expected_where_any_of_its_structures_is(present, expected):
    case = a_case("a", np.diag([1.0, 1.0, 6.0, 1.0]), 0)
    case = replace(case, image=case.image[1:], present=None if present is None else frozenset(present))
    assert look(replace(known(), label_names=("background", "WT")), case).present == expected
