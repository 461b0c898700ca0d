"""Coloured scribbles, read by the "colors" that dataset.json declares."""

import json

import numpy as np
import PIL.Image
import pytest
import tifffile

from scribbleseg.data import folder, nnunet
from scribbleseg.types import UNLABELLED, DataError

LABELS = {"background": 0, "disc": 1, "cup": 2, "ignore": 3}
COLOURS = {"disc": "#ff0000", "background": "#00FF00", "cup": "#0000ff"}
IMAGE = np.random.default_rng(0).integers(20, 200, (20, 30, 3), np.uint8)
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
STROKES = {RED: (4, slice(2, 20)), GREEN: (slice(6, 18), 25), BLUE: (10, slice(3, 15))}
LABEL_OF = {RED: 1, GREEN: 0, BLUE: 2}


def drawing(ground, strokes=STROKES):
    """Strokes on a ground, height x width x (3 or 4)."""
    pixels = np.array(np.broadcast_to(np.asarray(ground, np.uint8), (20, 30, np.shape(ground)[-1])))
    for colour, place in strokes.items():
        pixels[place] = (*colour, 255)[: pixels.shape[-1]]
    return pixels


def expected(rest=UNLABELLED, strokes=STROKES):
    labels = np.full((1, 20, 30), rest, np.uint8)
    for colour, place in strokes.items():
        labels[(0, *place)] = LABEL_OF[colour]
    return labels


def save(path, pixels):
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".tif":
        tifffile.imwrite(path, pixels, photometric="rgb", extrasamples=["unassalpha"][: pixels.shape[-1] - 3])
    else:
        PIL.Image.fromarray(pixels).save(path)


def declare(root, colours=COLOURS, labels=LABELS, **more):
    (root / "dataset.json").write_text(json.dumps({"labels": labels, "colors": colours, **more}))


@pytest.fixture
def root(tmp_path):
    save(tmp_path / "images" / "a.png", IMAGE)
    declare(tmp_path)
    return tmp_path


GROUNDS = {
    "transparent": (0, 0, 0, 0),
    "transparent pen colour": (255, 0, 0, 0),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
    "opaque grey": (90, 90, 90, 255),
    "the image": IMAGE,
}


@pytest.mark.parametrize("ground", GROUNDS.values(), ids=GROUNDS)
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_pens_are_labels_and_the_ground_is_unlabelled(root, ground, name):
    save(root / "scribbles" / name, drawing(ground))
    np.testing.assert_array_equal(folder(root).train[0].scribbles, expected())


@pytest.mark.parametrize("ground", GROUNDS.values(), ids=GROUNDS)
def test_masks_are_background_where_nobody_drew_unless_background_is_drawn(root, ground):
    save(root / "masks" / "a.png", drawing(ground))
    np.testing.assert_array_equal(folder(root).reference("a"), expected())
    structures = {colour: STROKES[colour] for colour in (RED, BLUE)}
    save(root / "masks" / "a.png", drawing(ground, structures))
    np.testing.assert_array_equal(folder(root).reference("a"), expected(0, structures))


def test_a_drawing_over_a_grey_image(root):
    grey = IMAGE[..., 0]
    save(root / "images" / "a.png", grey)
    save(root / "scribbles" / "a.png", drawing(np.dstack([grey] * 3)))
    np.testing.assert_array_equal(folder(root).train[0].scribbles, expected())


def test_pens_may_cover_most_of_a_drawing_and_nothing_of_it(root):
    everywhere = {GREEN: (slice(0, 20), slice(0, 30)), RED: (slice(2, 9), slice(2, 9))}
    save(root / "scribbles" / "a.png", drawing((0, 0, 0), everywhere))
    np.testing.assert_array_equal(folder(root).train[0].scribbles, expected(strokes=everywhere))
    for ground in ((0, 0, 0, 0), (255, 255, 255), IMAGE):
        save(root / "scribbles" / "a.png", drawing(ground, {}))
        assert (folder(root).train[0].scribbles == UNLABELLED).all()


def test_the_pen_of_ignore_takes_away(root):
    declare(root, {**COLOURS, "ignore": "#ffff00"})
    pixels = drawing((255, 255, 255))
    pixels[15, 3:20] = 255, 255, 0
    save(root / "scribbles" / "a.png", pixels)
    np.testing.assert_array_equal(folder(root).train[0].scribbles, expected())


def test_smooth_edges_on_a_transparent_layer_are_unlabelled(root):
    pixels = drawing((0, 0, 0, 0))
    pixels[3, 2:20] = pixels[5, 2:20] = *RED, 60
    save(root / "scribbles" / "a.png", pixels)
    np.testing.assert_array_equal(folder(root).train[0].scribbles, expected())
    pixels[..., 3] //= 3  # a pen that is not opaque itself
    save(root / "scribbles" / "a.png", pixels)
    np.testing.assert_array_equal(folder(root).train[0].scribbles, expected())


def test_a_few_blended_pixels_are_unlabelled_and_many_are_an_error(root):
    pixels = drawing((255, 255, 255))
    pixels[4, 20] = 255, 128, 128
    save(root / "scribbles" / "a.png", pixels)
    np.testing.assert_array_equal(folder(root).train[0].scribbles, expected())
    pixels[3, 2:20], pixels[5, 2:20] = (255, 128, 128), (255, 130, 130)
    save(root / "scribbles" / "a.png", pixels)
    message = (
        r"a\.png: expected the colours #ff0000, #00ff00, #0000ff on .* found 37 of 79 drawn pixels in others, such "
    )
    with pytest.raises(DataError, match=message + r"as #ff8080 \(19 pixels\), #ff8282 \(18 .*antialiased"):
        folder(root).train.named("a")


@pytest.mark.parametrize("ground", [*GROUNDS.values()], ids=GROUNDS)
def test_a_pen_that_is_not_declared_is_an_error(root, ground):
    declare(root, {name: COLOURS[name] for name in ("background", "cup")})
    save(root / "scribbles" / "a.png", drawing(ground))
    with pytest.raises(
        DataError, match=r"found 18 of 42 drawn pixels in others, such as #ff0000 \(18 pixels\); declare"
    ):
        folder(root).train.named("a")


def test_palettes_are_read_by_their_colours_and_grey_by_its_values(root):
    palette = PIL.Image.fromarray(np.where(expected()[0] == UNLABELLED, 0, expected()[0] + 1).astype(np.uint8))
    palette.putpalette([255, 255, 255, *GREEN, *RED, *BLUE])
    (root / "scribbles").mkdir()
    palette.save(root / "scribbles" / "a.png")
    np.testing.assert_array_equal(folder(root).train[0].scribbles, expected())
    save(root / "scribbles" / "a.png", np.where(expected()[0] == UNLABELLED, 3, expected()[0]).astype(np.uint8))
    np.testing.assert_array_equal(folder(root).train[0].scribbles, expected())


@pytest.mark.parametrize("ground", GROUNDS.values(), ids=GROUNDS)
def test_without_colours_the_error_suggests_those_that_were_found(root, ground):
    (root / "dataset.json").write_text(json.dumps({"labels": LABELS}))
    save(root / "scribbles" / "a.png", drawing(ground))
    with pytest.raises(DataError, match=r'3 channels \(colours\?\).*dataset\.json: "colors": {"NAME": "#') as caught:
        folder(root).train.named("a")
    if ground is not IMAGE:  # whose own colours are as many
        names = '"NAME": "#ff0000", "NAME": "#0000ff", "NAME": "#00ff00"'
        assert set(names.split(", ")) == set(str(caught.value).split('"colors": {')[1].split("}")[0].split(", "))


@pytest.mark.parametrize(
    ("colours", "message"),
    [
        ({"disk": "#ff0000"}, r'names of labels in "colors" \(background, disc, cup, ignore\), found "disk"'),
        ({"disc": "#ff0000", "cup": "#FF0000"}, 'a colour of its own for each label, found "#FF0000" twice'),
        ({"disc": "red"}, 'a colour such as "#ff0000" for "disc", found \'red\''),
        ({"disc": "#ff00"}, "a colour such as"),
        ({"disc": [255, 0, 0]}, "a colour such as"),
        ({}, r'expected "colors": {"cup": "#ff0000", ...}, found {}'),
        (["#ff0000"], 'expected "colors"'),
    ],
)
def test_declarations_that_make_no_sense_are_one_sentence(root, colours, message):
    save(root / "scribbles" / "a.png", drawing((0, 0, 0, 0)))
    declare(root, colours)
    with pytest.raises(DataError, match=message) as caught:
        folder(root)
    assert str(root / "dataset.json") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_colours_do_not_do_away_with_the_value_of_ignore(root):
    save(root / "scribbles" / "a.png", drawing((0, 0, 0, 0)))
    declare(root, labels={"background": 0, "disc": 1, "cup": 2})
    with pytest.raises(DataError, match='add "ignore": 3 to "labels"'):
        folder(root)


def test_nnunet_reads_colours_too(tmp_path):
    for name, pixels in {"imagesTr/a_0000.TIF": IMAGE, "labelsTr/a.tif": drawing((0, 0, 0, 0))}.items():
        save(tmp_path / name.lower().replace("imagestr", "imagesTr").replace("labelstr", "labelsTr"), pixels)
    (tmp_path / "imagesTr" / "a_0000.tif").rename(tmp_path / "imagesTr" / "a_0000.TIF")
    channels = {"0": "R", "1": "G", "2": "B"}
    declare(tmp_path, channel_names=channels, file_ending=".tif")
    case = nnunet(tmp_path).train[0]
    assert case.image.shape == (3, 1, 20, 30)
    np.testing.assert_array_equal(case.scribbles, expected())


def test_colours_of_more_than_eight_bits_and_jpeg_are_refused(root):
    (root / "scribbles").mkdir()
    tifffile.imwrite(root / "scribbles" / "a.tif", drawing((0, 0, 0)).astype(np.uint16) * 257, photometric="rgb")
    with pytest.raises(DataError, match=r"a\.tif: expected colours of 8 bits, found uint16"):
        folder(root).train.named("a")
    (root / "scribbles" / "a.tif").unlink()
    PIL.Image.fromarray(drawing((255, 255, 255))).save(root / "scribbles" / "a.jpg")
    with pytest.raises(DataError, match=r"a\.jpg: .*JPEG, whose compression changes values"):
        folder(root).train.named("a")


def test_a_drawing_of_another_size_is_refused(root):
    save(root / "scribbles" / "a.png", drawing((0, 0, 0, 0))[:, :-1])
    with pytest.raises(DataError, match=r"a\.png: expected 1 x 20 x 30 voxels .* found 1 x 20 x 29"):
        folder(root).train.named("a")
