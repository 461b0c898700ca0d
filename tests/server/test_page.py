"""The page in a real browser: what is drawn with mouse, touch and pen is what is saved."""

import json
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import PIL.Image
import pytest
import SimpleITK
from typer.testing import CliRunner

from scribbleseg.api import load
from scribbleseg.cli import app
from scribbleseg.data import open_dataset
from scribbleseg.phantoms import write_phantoms
from scribbleseg.server.drawing import Change, Drawing
from scribbleseg.server.merge import merge
from scribbleseg.server.project import open_again, open_merged, open_project
from scribbleseg.server.run import HOST, prepared
from scribbleseg.types import UNLABELLED

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is of the dev extra")
CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
PATIENCE_MS = 20_000

pytestmark = pytest.mark.skipif(not CHROMIUM.is_file(), reason="Chromium is not installed")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS])
        yield chromium
        chromium.close()


class Page:
    """A page on which a person draws, by rows and columns of the slices that it shows."""

    def __init__(self, browser, address, context=None, **more):
        self.context = context or browser.new_context(viewport={"width": 1280, "height": 720}, **more)
        self.page = self.context.new_page()
        self.problems = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.goto(address)

    def ready(self, case=0):
        self.page.wait_for_selector(f"body[data-ready='{case}']", timeout=PATIENCE_MS)
        self.page.wait_for_selector("canvas[data-placed]", timeout=PATIENCE_MS)
        return self

    def saved(self):
        self.page.wait_for_selector("body[data-saved=yes]", timeout=PATIENCE_MS)

    def view(self, n=0):
        return self.page.locator(".view canvas").nth(n)

    def at(self, pixel, n=0):
        """The middle of a pixel of a view, on the screen."""
        canvas = self.view(n)
        box = canvas.bounding_box()
        x, y, across, down = map(float, canvas.get_attribute("data-placed").split())
        return box["x"] + x + (pixel[1] + 0.5) * across, box["y"] + y + (pixel[0] + 0.5) * down

    def stroke(self, *pixels, n=0):
        self.page.mouse.move(*self.at(pixels[0], n))
        self.page.mouse.down()
        for pixel in pixels[1:]:
            self.page.mouse.move(*self.at(pixel, n))
        self.page.mouse.up()

    def dots(self, pixels):
        """Many strokes of one pixel each, faster than the browser's protocol takes them."""
        events = """(canvas, points) => points.forEach(([clientX, clientY]) => ["pointerdown", "pointerup"].forEach(
            (name) => canvas.dispatchEvent(new PointerEvent(name, { clientX, clientY, pointerId: 7 }))))"""
        (x, y), (right, below) = self.at((0, 0)), self.at((1, 1))
        points = [(x + column * (right - x), y + row * (below - y)) for row, column in pixels]
        self.view().evaluate(events, points)

    def click(self, name, times):
        self.page.locator(f"#{name}").evaluate("(b, times) => { while (times--) b.click(); }", times)

    def press(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)

    def slide(self, name, value):
        move = "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }"
        self.page.locator(f"#{name}").evaluate(move, value)

    def brush(self, size):
        self.slide("size", size)

    def settled(self):
        """Waits until what was asked for has been painted."""
        twice = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
        self.page.evaluate(twice)

    def slice(self, n=0):
        self.settled()
        return int(self.view(n).get_attribute("data-slice"))

    def placed(self, n=0):
        self.settled()
        return self.view(n).get_attribute("data-placed")


@pytest.fixture
def serve(browser):
    """Starts servers in this process, and opens a page on each; they end with the test."""
    running = []

    def start(root, annotator="", run=None, **more):
        listener = socket.create_server((HOST, 0))
        served = prepared(open_again(root, annotator), listener, run)
        thread = threading.Thread(target=served.server.run, kwargs={"sockets": [listener]})
        thread.start()
        page = Page(browser, served.address, **more)
        running.append((served, thread, listener, page))
        return page

    yield start
    problems = []
    for served, thread, listener, page in running:
        page.context.close()
        served.server.should_exit = True
        thread.join()
        served.runs.predictions.close()
        listener.close()
        problems += page.problems
    assert problems == []


def line(start, end):
    """Bresenham's line, written down as in a textbook."""
    (y, x), (to_y, to_x) = start, end
    dy, dx = -abs(to_y - y), abs(to_x - x)
    error, found = dx + dy, []
    while True:
        found.append((y, x))
        if (y, x) == (to_y, to_x):
            return found
        twice = 2 * error
        if twice >= dy:
            error, x = error + dy, x + (1 if x < to_x else -1)
        if twice <= dx:
            error, y = error + dx, y + (1 if y < to_y else -1)


def stamped(pixels, size, shape, sides=(1.0, 1.0)):
    """The mask of a stroke with a round brush, whose diameter is in the smaller side of a pixel."""
    drawn = np.zeros(shape, bool)
    centres = {pixel for a, b in zip(pixels, [*pixels[1:], pixels[-1]], strict=True) for pixel in line(a, b)}
    rows, columns = np.indices(shape)
    for row, column in centres:
        apart = np.hypot((rows - row) * sides[0], (columns - column) * sides[1]) / min(sides)
        drawn |= (apart < size / 2) | ((rows == row) & (columns == column))
    return drawn


# ---- every orientation, three planes

ACROSS = {"S": "Axial", "A": "Coronal", "R": "Sagittal"}
LOOKED_AT = {"Axial": "PL", "Coronal": "IL", "Sagittal": "IP"}
"""What rows and columns of the screen grow towards: the radiologists' convention, written down a second time."""

SIZES = {"R": 22, "A": 18, "S": 7}
TURNED = nib.affines.from_matvec(nib.eulerangles.euler2mat(z=0.3, y=0.2), (4, -9, 2))
OBLIQUE = nib.affines.from_matvec(nib.eulerangles.euler2mat(z=0.1, y=0.78), (4, -9, 2))
"""One volume that lies a little askew, and one so much that nobody can name the sides of its slices."""


def write_oriented(path, codes, thick="S", world=None):
    """Writes a volume whose stored axes x, y, z grow towards `codes`, its slices stacked along the axis `thick`."""
    sizes = {**SIZES, thick: SIZES["S"], "S": SIZES[thick]}
    canonical = np.random.default_rng(1).integers(0, 900, [sizes[axis] for axis in "RAS"]).astype(np.int16)
    spacing = [5.0 if axis == thick else 1.5 for axis in "RAS"]
    affine = (np.eye(4) if world is None else world) @ np.diag([*spacing, 1.0])
    turn = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes))
    stored = nib.orientations.apply_orientation(canonical, turn)
    affine = affine @ nib.orientations.inv_ornt_aff(turn, canonical.shape)
    image = nib.Nifti1Image(stored, affine)
    image.set_qform(affine, code="scanner")
    image.set_sform(affine, code="aligned")
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)


def expected_voxels(shape, ends, name, index, drawn):
    """Which voxels, x y z in RAS, a mask of a slice of a plane is, given what the axes of the page grow towards."""
    axis = next(axis for axis, plane in ACROSS.items() if plane == name)
    voxels = np.zeros(shape, bool)
    opposite = dict(zip("RASLPI", "LPIRAS", strict=True))
    place = {"RAS"[n]: n for n in range(3)} | {"LPI"[n]: n for n in range(3)}

    def along(letter, at):
        return at if letter in "RAS" else shape[place[letter]] - 1 - at

    down, across = LOOKED_AT[name]
    through = next(end for end in ends if end in (axis, opposite[axis]))
    for row, column in np.argwhere(drawn):
        voxel = [0, 0, 0]
        for letter, at in ((through, index), (down, int(row)), (across, int(column))):
            voxel[place[letter]] = along(letter, at)
        voxels[tuple(voxel)] = True
    return voxels


ORIENTED = {
    "0_RAS": ("RAS", "S"),
    "1_LPI": ("LPI", "S"),
    "2_PSR": ("PSR", "S"),
    "3_SLA": ("SLA", "A"),
    "4_AIL": ("AIL", "R"),
    "5_RIP": ("RIP", "A"),
    "6_LAS_turned": ("LAS", "S"),
}


def test_what_is_drawn_in_three_planes_is_saved_in_every_orientation(tmp_path, sets, serve):
    for name, (codes, thick) in ORIENTED.items():
        write_oriented(tmp_path / "images" / f"{name}.nii.gz", codes, thick, TURNED if "turned" in name else None)
    sets.declare(tmp_path)
    page = serve(tmp_path)
    page.ready(0)
    page.press("b")
    page.brush(1)
    for number, (name, (codes, thick)) in enumerate(ORIENTED.items()):
        page.ready(number)
        image = nib.load(tmp_path / "images" / f"{name}.nii.gz")
        canonical = nib.as_closest_canonical(image)
        main = ACROSS[thick]
        through = next(code for code in codes if {code, thick} in ({thick}, {"S", "I"}, {"A", "P"}, {"R", "L"}))
        ends = through + LOOKED_AT[main]
        expected = np.zeros(canonical.shape, np.uint8)
        for n, (key, label) in enumerate(zip("12b", ("liver", "tumour", "background"), strict=True)):
            title = page.page.locator(".what").nth(n).inner_text().split()
            _, _, across, down = map(float, page.view(n).get_attribute("data-placed").split())
            page.press(key)
            path = [(1, 2), (3, 4), (2, 5)] if n else [(2, 3), (9, 5), (4, 11)]
            page.stroke(*path, n=n)
            shape = {letter: canonical.shape["RAS".index(letter)] for letter in "RAS"}
            pairs = {"Axial": "AR", "Coronal": "SR", "Sagittal": "SA"}[title[0]]
            drawn = stamped(path, 1, (shape[pairs[0]], shape[pairs[1]]))
            mine = expected_voxels(canonical.shape, ends, title[0], page.slice(n), drawn)
            expected[mine] = sets.labels[label]
            spacing = dict(zip("RAS", canonical.header.get_zooms(), strict=True))
            assert down / across == pytest.approx(spacing[pairs[0]] / spacing[pairs[1]], rel=1e-3)
        page.saved()
        saved = nib.load(tmp_path / "scribbles" / f"{name}.nii.gz")
        np.testing.assert_array_equal(np.asarray(nib.as_closest_canonical(saved).dataobj), expected)
        for field in ("qform_code", "sform_code", "srow_x", "srow_y", "srow_z", "quatern_b", "qoffset_x", "pixdim"):
            np.testing.assert_array_equal(saved.header[field], image.header[field])
        if number + 1 < len(ORIENTED):
            page.press(".")


def test_a_volume_that_lies_far_askew_is_drawn_on_as_it_is_stored(tmp_path, sets, serve):
    write_oriented(tmp_path / "images" / "a.nii.gz", "RAS", "S", OBLIQUE)
    sets.declare(tmp_path)
    page = serve(tmp_path).ready()
    assert page.page.locator(".side.left").first.inner_text() == ""
    page.brush(3)
    page.stroke((2, 3), (9, 5), (4, 11))
    page.saved()
    values = np.asarray(nib.load(tmp_path / "scribbles" / "a.nii.gz").dataobj)
    drawn = stamped([(2, 3), (9, 5), (4, 11)], 3, (18, 22))
    assert ((values.T[page.slice()] == sets.labels["liver"]) == drawn).all()
    assert (values > 0).sum() == drawn.sum()


# ---- tools


@pytest.fixture
def hearts(tmp_path):
    return write_phantoms(tmp_path / "hearts", train=2, test=1, shape=(5, 48, 48))


def labels_of(root, name="test000"):
    """The saved scribbles of a case, which phantoms store as they are looked at."""
    return open_dataset(root).train.named(name).scribbles


def cdp_touch(page, kind, points):
    session = page.cdp if hasattr(page, "cdp") else page.context.new_cdp_session(page.page)
    page.cdp = session
    touches = [{"x": x, "y": y, "id": n} for n, (x, y) in enumerate(points)]
    session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})


def cdp_pen(page, kind, point, buttons=1):
    session = page.cdp if hasattr(page, "cdp") else page.context.new_cdp_session(page.page)
    page.cdp = session
    x, y = point
    pressed = {"type": kind, "x": x, "y": y, "button": "left", "buttons": buttons, "clickCount": 1}
    session.send("Input.dispatchMouseEvent", {**pressed, "pointerType": "pen"})


def test_a_stroke_whose_voxels_are_saved_before_its_end_counts(hearts, serve):
    page = serve(hearts).ready()
    page.press("1")
    page.stroke((5, 5), (20, 9))
    page.press("2")
    cdp_pen(page, "mousePressed", page.at((30, 5)))
    cdp_pen(page, "mouseMoved", page.at((33, 30)))
    page.saved()
    cdp_pen(page, "mouseReleased", page.at((33, 30)), 0)
    page.saved()
    record = json.loads((hearts / "scribbles" / "test000_annotation.json").read_text())
    assert record["strokes"] == {"RV": 1, "Myo": 1}


def test_mouse_touch_and_pen_leave_what_the_brush_covers(hearts, serve):
    page = serve(hearts, has_touch=True).ready()
    shape = nib.load(hearts / "images" / "test000.nii.gz").shape[::-1]
    paths = [[(5, 5), (20, 9), (12, 30)], [(30, 5), (33, 30)], [(40, 12), (39, 25), (38, 36)]]
    page.brush(5)
    page.press("1")
    page.stroke(*paths[0])
    page.press("2")
    cdp_touch(page, "touchStart", [page.at(paths[1][0])])
    for pixel in paths[1][1:]:
        cdp_touch(page, "touchMove", [page.at(pixel)])
    cdp_touch(page, "touchEnd", [])
    page.press("3")
    cdp_pen(page, "mousePressed", page.at(paths[2][0]))
    for pixel in paths[2][1:]:
        cdp_pen(page, "mouseMoved", page.at(pixel))
    cdp_pen(page, "mouseReleased", page.at(paths[2][-1]), 0)
    page.saved()
    labels = labels_of(hearts)
    drawn = labels[page.slice()]
    for label, path in enumerate(paths, start=1):
        expected = stamped(path, 5, shape[1:])
        assert ((drawn == label) == expected).all()
    assert (labels != UNLABELLED).sum() == (drawn != UNLABELLED).sum()
    record = json.loads((hearts / "scribbles" / "test000_annotation.json").read_text())
    assert record["strokes"] == {"RV": 1, "Myo": 1, "LV": 1}
    assert record["seconds"] > 0


def test_the_other_end_of_a_pen_erases(hearts, serve):
    page = serve(hearts).ready()
    page.brush(1)
    page.stroke((10, 10), (10, 30))
    rubbed = """(canvas, [from, to]) => [["pointerdown", from], ["pointermove", to], ["pointerup", to]].forEach(
        ([name, [clientX, clientY]]) => canvas.dispatchEvent(new PointerEvent(name, {
            clientX, clientY, pointerId: 3, pointerType: "pen", button: 5, buttons: 32 })))"""
    page.view().evaluate(rubbed, [page.at((10, 12)), page.at((10, 19))])
    page.saved()
    drawn = labels_of(hearts)[page.slice()][10]
    assert (drawn[[10, 11, *range(20, 31)]] == 1).all()
    assert (drawn != UNLABELLED).sum() == 13


def test_positions_that_came_between_two_events_are_drawn(hearts, serve):
    page = serve(hearts).ready()
    page.brush(1)
    path = [(10, 10), (25, 14), (12, 18), (30, 22)]  # nothing like the straight line from first to last
    joined = """(canvas, points) => {
        const made = (name, [clientX, clientY], more = {}) =>
            new PointerEvent(name, { clientX, clientY, pointerId: 3, pointerType: "pen", buttons: 1, ...more });
        const between = points.slice(1).map((point) => made("pointermove", point));
        canvas.dispatchEvent(made("pointerdown", points[0]));
        canvas.dispatchEvent(made("pointermove", points.at(-1), { coalescedEvents: between }));
        canvas.dispatchEvent(made("pointerup", points.at(-1), { buttons: 0 }));
    }"""
    page.view().evaluate(joined, [page.at(pixel) for pixel in path])
    page.saved()
    drawn = labels_of(hearts)[page.slice()] == 1
    np.testing.assert_array_equal(drawn, stamped(path, 1, drawn.shape))


def test_two_fingers_zoom_and_draw_nothing(hearts, serve):
    page = serve(hearts, has_touch=True).ready()
    before = page.placed()
    a, b = page.at((20, 20)), page.at((25, 30))
    cdp_touch(page, "touchStart", [a])
    cdp_touch(page, "touchStart", [a, b])
    cdp_touch(page, "touchMove", [a, (b[0] + 80, b[1] + 40)])
    cdp_touch(page, "touchEnd", [])
    assert page.placed() != before
    assert not (hearts / "scribbles" / "test000.nii.gz").exists()


def test_undo_and_redo_go_through_two_hundred_strokes_on_all_slices(hearts, serve):
    page = serve(hearts).ready()
    page.brush(1)
    page.press("Home")
    page.settled()
    for _ in range(4):
        page.dots([(2 + n % 40, 3 + n % 17) for n in range(50)])
        page.press("ArrowDown")
    page.saved()
    whole = labels_of(hearts)
    assert (whole != UNLABELLED).sum() == 200
    page.click("undo", 149)
    page.press("Control+z")
    page.saved()
    part = labels_of(hearts)
    assert (part != UNLABELLED).sum() == 50
    assert page.slice() == 1
    page.click("undo", 60)
    page.saved()
    assert (labels_of(hearts, "test000") == UNLABELLED).all()
    page.press("Control+Shift+z")
    page.click("redo", 199)
    page.saved()
    np.testing.assert_array_equal(labels_of(hearts), whole)


def test_every_key_does_what_the_help_says(hearts, serve):
    page = serve(hearts).ready()
    middle = page.slice()
    chosen = "#labels button[aria-checked=true]"
    for key, label in (("2", "2"), ("b", "0"), ("3", "3"), ("e", "erase"), ("e", "3"), ("1", "1")):
        page.press(key)
        assert page.page.locator(chosen).get_attribute("data-label") == label
    page.press("9")
    assert page.page.locator(chosen).get_attribute("data-label") == "1"  # there are three
    page.brush(3)
    page.press("]")
    assert page.page.locator("#size-shown").inner_text() == "4"
    page.brush(1)
    page.stroke((10, 5), (10, 20))
    page.press("2")
    page.stroke((5, 12), (15, 12))  # across the first
    page.press("Control+z", "l")
    page.stroke((5, 12), (15, 12))  # again, with the first protected
    page.press("l")
    page.saved()
    drawn = labels_of(hearts)[middle]
    assert (drawn[10, 5:21] == 1).all()
    assert (drawn == 2).sum() == 10
    page.page.keyboard.down("e")  # held: erases until it is let go
    page.stroke((10, 5), (10, 8))
    page.page.keyboard.up("e")
    assert page.page.locator(chosen).get_attribute("data-label") == "2"
    page.page.mouse.move(*page.at((10, 18)))
    page.press("p")
    assert page.page.locator(chosen).get_attribute("data-label") == "1"
    page.press("c")
    assert page.slice() == middle + 1
    page.press("Shift+c", "Shift+Delete")
    page.saved()
    assert (labels_of(hearts)[middle + 1] == UNLABELLED).all()
    page.press("Control+z")
    page.press("ArrowUp", "ArrowUp", "PageDown", "PageUp", "End", "Home")
    assert page.slice() == 0
    page.press(*["ArrowDown"] * (middle + 1))
    page.press("2", "Delete")
    page.saved()
    labels = labels_of(hearts)
    assert (labels[middle, 10] == 1).sum() == 12
    assert (labels[middle] == 2).sum() == 10
    assert (labels[middle + 1] == 1).sum() == 12
    assert (labels[middle + 1] == 2).sum() == 0
    page.press("a")
    assert not page.page.locator("#show-areas").is_checked()
    page.press("s")
    assert not page.page.locator("#smooth").is_checked()
    page.press("?")
    assert page.page.locator("#help").is_visible()
    page.press("?")
    assert not page.page.locator("#help").is_visible()
    page.page.keyboard.down("h")
    assert "hidden" in page.page.locator("body").get_attribute("class")
    page.page.keyboard.up("h")
    placed = page.placed()
    page.press("+", "+", "-")
    assert page.placed() != placed
    page.press("3", "0")  # there are not thirty classes
    assert page.placed() == placed
    assert page.page.locator(chosen).get_attribute("data-label") == "3"
    page.press("v")
    page.settled()
    assert page.view().get_attribute("data-axis") == "1"
    page.press("v", "v", "t", "w", "x", "Control+s")
    page.press("n")
    page.page.wait_for_selector(".large canvas[data-slice='0']")  # the middle of the widest gap
    page.press("d")
    page.page.wait_for_selector("#case-list button[data-state=done]")
    page.press("f")
    page.page.keyboard.type("apex is cut off")
    page.press("Enter")
    page.page.wait_for_selector("#case-list i.flag")
    record = json.loads((hearts / "scribbles" / "test000_annotation.json").read_text())
    assert (record["done"], record["flag"]) == (True, "apex is cut off")
    page.press(".")
    page.ready(1)
    page.press(",")
    page.ready(0)
    assert page.page.locator("#undo").is_enabled()  # the history of a case outlasts the visit of another


def test_interpolation_fills_the_slices_between_two_strokes(hearts, serve):
    page = serve(hearts).ready()
    page.brush(1)
    page.press("Home")
    page.stroke((10, 10), (10, 30))
    page.press("End")
    last = page.slice()
    page.stroke((26, 10), (26, 30))
    page.press("ArrowUp", "i")
    page.saved()
    labels = labels_of(hearts)
    for z in range(last + 1):
        row = round(10 + 16 * z / last)
        assert (labels[z, row, 10:31] == 1).all()
        assert (labels[z] != UNLABELLED).sum() == 21
    page.press("Control+z")
    page.saved()
    assert (labels_of(hearts)[1:last] == UNLABELLED).all()


def test_areas_grow_after_each_stroke_and_follow_the_sliders(hearts, serve):
    page = serve(hearts).ready()
    page.press("1")
    page.stroke((22, 20), (24, 24))
    assert page.view().get_attribute("data-axis") == "0"
    page.press("b")
    page.stroke((5, 5), (5, 40), (40, 40), (40, 5), (5, 5))
    page.page.wait_for_selector(f"body[data-areas='{page.slice()}']", timeout=PATIENCE_MS)
    share = re.compile(r"(\d+) % of the slice")
    state = page.page.locator("#areas-state")
    before = int(share.search(state.inner_text())[1])
    assert before > 5
    page.slide("tau", 0.55)
    for _ in range(200):
        found = share.search(state.inner_text())
        if found and int(found[1]) > before:
            break
        page.page.wait_for_timeout(50)
    assert found
    assert int(found[1]) > before


def test_while_an_image_loads_the_view_says_which(hearts, serve):
    page, held = serve(hearts).ready(), []
    assert page.page.locator("#loading").inner_text() == ""
    page.page.route("**/channels/*", lambda route: held.append(route))
    page.press(".")
    page.page.wait_for_selector("#loading:not(:empty)", timeout=PATIENCE_MS)
    assert page.page.locator("#loading").inner_text().startswith("Loading ")
    assert page.page.locator("#loading").is_visible()
    for _ in range(200):
        if held:
            break
        page.page.wait_for_timeout(50)
    held[0].continue_()
    page.ready(1)
    assert page.page.locator("#loading").inner_text() == ""


def test_a_second_tab_is_told_and_takes_over_without_loss(hearts, serve):
    first = serve(hearts).ready()
    first.stroke((10, 10), (10, 20))
    first.saved()
    address = first.page.evaluate("location.href")
    second = Page(None, address, context=first.context).ready()
    second.page.wait_for_selector("#notice:not([hidden])")
    assert "another tab" in second.page.locator("#notice").inner_text()
    second.stroke((20, 10), (20, 20))  # it only shows
    second.page.get_by_text("Draw here instead").click()
    second.page.wait_for_selector("#notice", state="hidden")
    second.press("2")
    second.stroke((30, 10), (30, 20))
    second.saved()
    first.page.wait_for_selector("#notice:not([hidden])", timeout=PATIENCE_MS)
    drawn = labels_of(hearts)[first.slice()]
    assert (drawn[10, 10:21] == 1).all()
    assert (drawn[30, 10:21] == 2).all()
    assert (drawn[20] == UNLABELLED).all()
    assert second.problems == []


def test_a_full_disk_is_told_at_once_and_saved_when_it_can_be(hearts, serve, monkeypatch):
    page = serve(hearts).ready()
    with monkeypatch.context() as patch:
        patch.setattr(nib, "save", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        page.stroke((10, 10), (10, 20))
        page.page.wait_for_selector("#notice:not([hidden])", timeout=PATIENCE_MS)
        assert "No space left" in page.page.locator("#notice").inner_text()
        page.stroke((12, 10), (12, 20))  # the pen goes on
    page.saved()
    assert (labels_of(hearts)[page.slice()][[10, 12], 10:21] == 1).all()
    page.page.wait_for_selector("#notice", state="hidden")


def test_strokes_that_the_browser_cannot_keep_are_said_to_be_in_this_tab_alone(hearts, serve, monkeypatch):
    page = serve(hearts).ready()
    full = "() => { Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError'); }; }"
    page.page.evaluate(full)
    with monkeypatch.context() as patch:
        patch.setattr(nib, "save", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        page.stroke((10, 10), (10, 20))
        page.page.get_by_text("leave this tab open").wait_for()
        assert "kept in this browser" not in page.page.locator("#notice").inner_text()
    page.saved()


def test_strokes_of_two_annotators_are_told_apart(hearts, serve):
    for annotator, run in (("ann", (10, 12, 1)), ("bob", (10, 12, 2))):
        drawing = Drawing(open_project(hearts, annotator), "train000")
        start = (2 * drawing.labels.shape[1] + run[0]) * drawing.labels.shape[2] + 10
        drawing.change(Change(0, [(start, run[1], run[2])]))
    merge(open_merged(hearts, ["ann", "bob"]))
    page = serve(hearts, "ann+bob")
    case = open_project(hearts).names.index("train000")
    page.page.wait_for_selector("body[data-ready]")
    page.page.locator("#case-list button").nth(case).click()
    page.ready(case)
    page.press("Home", "ArrowDown", "ArrowDown")
    assert page.page.locator("#annotator-list").inner_text().split() == ["ann", "bob"]

    def seen():
        page.page.mouse.move(*page.at((10, 13)))
        page.page.mouse.move(*page.at((10, 14)))
        page.settled()
        return page.page.locator("#readout").inner_text()

    def picture():
        page.page.mouse.move(1, 1)
        page.settled()
        return page.view().screenshot()

    labels = open_project(hearts).label_names
    assert seen().endswith(f"ann: {labels[1]}   ·   bob: {labels[2]}")
    both = picture()
    page.page.get_by_text("bob").click()
    assert seen().endswith(f"ann: {labels[1]}")
    ann = picture()
    page.page.get_by_text("bob").click()
    page.page.get_by_text("ann", exact=True).click()
    bob = picture()
    page.page.get_by_text("bob").click()
    nobody = picture()
    assert len({both, ann, bob, nobody}) == 4
    page.page.get_by_text("ann", exact=True).click()
    assert picture() == ann


def test_a_folder_of_images_asks_for_names_and_pictures_are_drawn_on(tmp_path, serve):
    colours = np.random.default_rng(0).integers(0, 255, (30, 40, 3)).astype(np.uint8)
    PIL.Image.fromarray(colours).save(tmp_path / "p1.png")
    PIL.Image.fromarray(colours[..., 0]).save(tmp_path / "p2.png")
    page = serve(tmp_path)
    page.page.wait_for_selector("body[data-ready=naming]", timeout=PATIENCE_MS)
    page.page.locator("#names").fill("disc\nDisc")
    page.page.get_by_text("Begin").click()
    page.page.wait_for_selector("#naming-problem:not(:empty)")
    page.page.locator("#names").fill("disc\ncup")
    page.page.get_by_text("Begin").click()
    page.ready()
    page.brush(3)
    page.press("2")
    page.stroke((4, 4), (20, 30))
    page.saved()
    saved = np.asarray(PIL.Image.open(tmp_path / "scribbles" / "p1.png"))
    assert ((saved == 2) == stamped([(4, 4), (20, 30)], 3, (30, 40))).all()
    assert set(np.unique(saved)) == {2, 3}
    page.press(".")
    page.ready(1)
    page.stroke((1, 1))
    page.saved()
    dataset = open_dataset(tmp_path)
    assert dataset.train.names == ("p1", "p2")
    assert dataset.label_names == ("background", "disc", "cup")


def write_series(folder, voxels, spacing=(1.5, 1.5, 4.0)):
    """Writes a DICOM series, one file a slice, its slices not in the order of their names."""
    folder.mkdir(parents=True)
    image = SimpleITK.GetImageFromArray(voxels)
    image.SetSpacing(spacing)
    writer = SimpleITK.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for z in range(len(voxels)):
        one = image[:, :, z]
        position = image.TransformIndexToPhysicalPoint((0, 0, z))
        tags = {"0008|0060": "MR", "0020|000e": "1.2.826.0.1.3680043.2.1125.1", "0020|0013": str(z + 1)}
        tags |= {"0020|0032": "\\".join(map(str, position)), "0020|0037": "1\\0\\0\\0\\1\\0"}
        tags |= {"0008|0018": f"1.2.826.0.1.3680043.2.1125.1.{z + 1}", "0018|0050": str(spacing[2])}
        for tag, value in tags.items():
            one.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{len(voxels) - z}.dcm"))
        writer.Execute(one)


def test_a_series_of_dicom_files_is_drawn_on(tmp_path, sets, serve):
    voxels = np.random.default_rng(0).integers(0, 900, (6, 30, 40)).astype(np.int16)
    write_series(tmp_path / "images" / "patient", voxels)
    sets.declare(tmp_path)
    page = serve(tmp_path).ready()
    page.brush(3)
    page.press("Home", "ArrowDown")
    page.stroke((4, 4), (20, 30))
    page.saved()
    dataset = open_dataset(tmp_path)
    assert dataset.train.names == ("patient",)
    z = page.slice()
    page.page.mouse.move(*page.at((4, 5)))
    page.settled()
    shown = float(re.search(r"intensity (\S+)", page.page.locator("#readout").inner_text())[1])
    assert shown == dataset.train[0].image[0, z, 4, 5] == voxels[z, 4, 5]
    expected = np.full(voxels.shape, UNLABELLED)
    expected[z][stamped([(4, 4), (20, 30)], 3, (30, 40))] = 1
    np.testing.assert_array_equal(dataset.train[0].scribbles, expected)


def test_several_channels_are_shown_one_after_the_other_and_blended(tmp_path, sets, serve):
    for n in range(3):
        voxels = np.full((20, 20, 4), 100 * n, np.int16)
        voxels[:10] += 50
        (tmp_path / "images").mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(voxels, np.diag([-1.0, -1.0, 5.0, 1.0])), tmp_path / "images" / f"a_{n:04}.nii.gz")
    sets.declare(tmp_path)
    page = serve(tmp_path).ready()

    def intensities():
        page.page.mouse.move(*page.at((3, 3)))
        page.page.mouse.move(*page.at((4, 4)))
        page.settled()
        return re.search(r"intensity ([\d ]+)", page.page.locator("#readout").inner_text())[1].split()

    seen = []
    for _ in range(4):
        seen += intensities()
        page.press("x")
    assert seen == ["50", "150", "250", "50"]
    page.page.locator("#blending input").evaluate("s => { s.value = 0.5; s.dispatchEvent(new Event('input')); }")
    assert intensities() == ["50", "150", "250"]
    page.stroke((4, 4), (12, 12))
    page.saved()
    assert open_dataset(tmp_path).train[0].image.shape == (3, 4, 20, 20)
    assert (open_dataset(tmp_path).train[0].scribbles == 1).sum() > 0


# ---- with a network

TRAINING_MS = 500_000
"""A training of a few iterations, which loads torch in three processes, on a machine that is busy."""


def test_a_training_from_the_page_ends_in_predictions_that_are_accepted(hearts, tmp_path, serve):
    run = tmp_path / "runs" / "first"
    page = serve(hearts, run=run).ready()
    page.page.set_default_timeout(TRAINING_MS)
    assert not page.page.locator("#prediction").is_visible()
    page.page.locator("#iterations").fill("20")
    page.page.get_by_role("button", name="Train", exact=True).click()
    page.page.wait_for_selector("body[data-training=yes]")
    page.page.reload()  # which loses nothing
    page.ready()
    page.page.wait_for_selector("body[data-training=yes]")
    page.stroke((5, 5), (5, 30))  # and nothing blocks the pen
    page.saved()
    page.page.wait_for_selector("body[data-training=no]")
    assert "is trained" in page.page.locator("#training-state").inner_text()
    page.page.wait_for_selector("body[data-predicted*=first]")
    log = run.with_name("first.log").read_text()
    assert f"train {hearts.resolve()} --out {run.resolve()} --resume --set stages.0.iterations=10" in log
    page.press("u")
    assert page.page.locator("#show-doubt").is_checked()
    page.press("n")
    page.page.wait_for_selector("#why:not(:empty)")
    assert re.search("doubt|found in no slice", page.page.locator("#why").inner_text())
    number = int(page.page.locator("body").get_attribute("data-ready"))
    name = page.page.locator("#case-list button span").nth(number).inner_text()
    page.page.wait_for_selector("#accept:enabled")
    predicted = load(run, "cpu").segment(hearts / "images" / f"{name}.nii.gz")
    before, z = labels_of(hearts, name), page.slice()
    label = next((n for n in (1, 2, 3) if (predicted[z] == n).any()), 0)
    page.press(str(label) if label else "b", "y")
    page.saved()
    after = labels_of(hearts, name)
    taken = (predicted == label) & (before == UNLABELLED)
    taken[np.arange(len(taken)) != z] = False
    assert taken.any()
    np.testing.assert_array_equal(after, np.where(taken, label, before))
    page.press("Control+z")
    page.saved()
    np.testing.assert_array_equal(labels_of(hearts, name), before)


# ---- a server that is killed


def start_program(root, port, *more):
    command = [sys.executable, "-m", "scribbleseg", "annotate", str(root), "--no-open", "--port", str(port), *more]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for text in program.stdout:
        if found := re.search(r"http://\S+", text):
            return SimpleNamespace(program=program, address=found[0])
    raise AssertionError("the program ended before it named its address")


def end(started, how):
    started.program.send_signal(how)
    code = started.program.wait(20)
    started.program.stdout.close()
    return code


def killed_after_a_stroke(root, browser):
    """The port of a server that was killed when a stroke was saved, and the page on which it was drawn."""
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    server = start_program(root, port)
    page = Page(browser, server.address).ready()
    page.stroke((10, 10), (10, 20))
    page.saved()
    end(server, signal.SIGKILL)
    return port, page


def test_what_a_killed_server_did_not_save_is_recovered(hearts, browser):
    port, page = killed_after_a_stroke(hearts, browser)
    page.press("2")
    page.stroke((20, 10), (20, 20))
    page.page.wait_for_selector("#notice:not([hidden])", timeout=PATIENCE_MS)
    assert "kept in this browser" in page.page.locator("#notice").inner_text()
    assert page.page.locator("#saved").inner_text() == "not saved"
    z = page.slice()
    page.page.close()
    server = start_program(hearts, port)
    again = Page(browser, server.address, context=page.context).ready()
    again.saved()
    assert "recovered: test000" in again.page.locator("#notice").inner_text()
    drawn = labels_of(hearts)[z]
    assert (drawn[10, 10:21] == 1).all()
    assert (drawn[20, 10:21] == 2).all()
    assert end(server, signal.SIGINT) == 0
    page.context.close()
    assert page.problems == again.problems == []


def test_a_second_server_of_the_same_scribbles_is_refused_until_the_first_has_ended(hearts):
    first = start_program(hearts, 0)
    refused = CliRunner().invoke(app, ["annotate", str(hearts), "--no-open", "--port", "0"])
    assert refused.exit_code == 2
    assert f"found process {first.program.pid} of" in refused.output
    assert "--annotator" in refused.output
    end(start_program(hearts, 0, "--annotator", "ann"), signal.SIGKILL)
    end(first, signal.SIGKILL)
    end(start_program(hearts, 0), signal.SIGKILL)


def test_strokes_of_long_ago_that_are_recovered_do_not_replace_later_ones_unseen(hearts, browser):
    port, page = killed_after_a_stroke(hearts, browser)
    before = labels_of(hearts)
    key = f"scribbleseg:{(hearts / 'scribbles').resolve()}:test000:0123456789abcdef0123"
    left = {"name": "test000", "runs": [[0, before.size, UNLABELLED]], "strokes": {}, "seconds": 0}
    page.page.evaluate("([key, left]) => localStorage.setItem(key, JSON.stringify(left))", [key, left])
    page.page.close()
    server = start_program(hearts, port)
    again = Page(browser, server.address, context=page.context).ready()
    again.page.get_by_text("What they replaced is kept in").wait_for()
    (kept,) = (hearts / "scribbles" / ".kept").iterdir()
    assert kept.name in again.page.locator("#notice").inner_text()
    assert (np.asarray(nib.load(kept).dataobj) == 1).sum() == (before == 1).sum() > 0
    assert (labels_of(hearts) == UNLABELLED).all()
    end(server, signal.SIGKILL)
    page.context.close()


def test_strokes_that_cannot_be_saved_at_the_end_are_named(hearts, monkeypatch):
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: signal.raise_signal(signal.SIGINT))
    monkeypatch.setattr("scribbleseg.server.store.Store.flush", lambda _: ["p01.nii.gz: No space left on device"])
    ended = CliRunner().invoke(app, ["annotate", str(hearts), "--no-open", "--port", "0"])
    assert ended.exit_code == 130
    assert "Strokes are not saved: p01.nii.gz: No space left on device" in ended.output


def test_the_program_is_one_line_where_it_refuses(tmp_path):
    refused = CliRunner().invoke(app, ["annotate", str(tmp_path / "nothing")])
    assert refused.exit_code == 2
    assert refused.output.startswith("error: ")
