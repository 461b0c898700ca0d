"""Pictures: TIFF, JPEG and PNG."""

import numpy as np
import PIL.Image
import pytest
import SimpleITK
import tifffile

from scribbleseg.data import images
from scribbleseg.data.formats import label_ending, read_geometry, read_image, read_labels, write_labels
from scribbleseg.data.orientation import is_picture
from scribbleseg.files import FileError

rng = np.random.default_rng(0)
GREY = rng.integers(0, 256, (5, 7), np.uint8)
COLOURS = rng.integers(0, 256, (5, 7, 3), np.uint8)


def channels(pixels):
    return np.moveaxis(np.atleast_3d(pixels), -1, 0)[:, None]


@pytest.mark.parametrize(
    "pixels",
    [
        GREY,
        GREY > 99,
        GREY.astype(np.uint16) * 257,
        GREY.astype(np.int16) - 100,
        GREY.astype(np.uint32) * 1000,
        GREY.astype(np.float32) / 3 - 7,
        GREY.astype(np.float64) / 4,
        COLOURS,
        COLOURS.astype(np.uint16) * 257,
        COLOURS.astype(np.float32) / 4,
    ],
    ids=lambda pixels: f"{pixels.dtype} {pixels.ndim}",
)
@pytest.mark.parametrize("name", ["a.tif", "a.tiff"])
def test_tiff_is_read_as_it_is_stored(tmp_path, pixels, name):
    for options in ({}, {"compression": "zlib"}, {"tile": (16, 16)}, {"byteorder": ">"}):
        tifffile.imwrite(tmp_path / name, pixels, photometric="rgb" if pixels.ndim == 3 else "minisblack", **options)
        image, geometry = read_image(tmp_path / name)
        np.testing.assert_array_equal(image, channels(pixels))
    assert (geometry.shape, geometry.spacing_mm) == ((1, 5, 7), (1, 1, 1))
    assert is_picture(geometry)
    assert is_picture(read_geometry(tmp_path / name))
    assert label_ending(geometry) == ".png"


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate"])
@pytest.mark.parametrize("pixels", [GREY, COLOURS, GREY.astype(np.uint16) * 257])
def test_compressed_tiff_is_read(tmp_path, compression, pixels):
    PIL.Image.fromarray(pixels).save(tmp_path / "a.tif", compression=compression)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif")[0], channels(pixels))


def test_planes_alpha_and_palettes_of_tiff(tmp_path):
    tifffile.imwrite(tmp_path / "planes.tif", np.moveaxis(COLOURS, -1, 0), photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read_image(tmp_path / "planes.tif")[0], channels(COLOURS))
    PIL.Image.fromarray(np.dstack([COLOURS, GREY])).save(tmp_path / "alpha.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "alpha.tif")[0], channels(COLOURS))
    PIL.Image.fromarray(np.dstack([COLOURS, GREY])).save(tmp_path / "packed.tif", compression="tiff_lzw")
    np.testing.assert_array_equal(read_image(tmp_path / "packed.tif")[0], channels(COLOURS))
    palette = PIL.Image.fromarray(GREY % 3)
    palette.putpalette([9, 8, 7, 255, 0, 0, 0, 255, 0] + [0] * 759)
    for name, options in {"palette": {}, "packed": {"compression": "tiff_lzw"}}.items():
        palette.save(tmp_path / f"{name}.tif", **options)
        np.testing.assert_array_equal(read_labels(tmp_path / f"{name}.tif")[0][0], GREY % 3)
        table = np.array([[9, 8, 7], [255, 0, 0], [0, 255, 0]])
        np.testing.assert_array_equal(read_image(tmp_path / f"{name}.tif")[0], channels(table[GREY % 3]))


def test_tiff_that_would_be_misread_is_refused_with_a_sentence(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.stack([GREY] * 4), photometric="minisblack")
    with pytest.raises(FileError, match=r"a\.tif: expected one picture, found a TIFF of 4 pages; save each page"):
        read_image(path)
    tifffile.imwrite(path, GREY, photometric="miniswhite")
    with pytest.raises(FileError, match=r"expected grey \(0 is black\).*found MINISWHITE"):
        read_image(path)
    PIL.Image.fromarray(COLOURS).convert("CMYK").save(path)
    with pytest.raises(FileError, match="found SEPARATED"):
        read_image(path)
    tifffile.imwrite(path, GREY, extratags=[(274, "H", 1, 3, True)])
    with pytest.raises(FileError, match="found MINISBLACK, orientation 3"):
        read_image(path)
    itk = SimpleITK.GetImageFromArray(COLOURS.astype(np.uint16) * 257, isVector=True)
    SimpleITK.WriteImage(itk, path, imageIO="TIFFImageIO", useCompression=True, compressor="LZW")
    with tifffile.TiffFile(path) as file:
        assert file.pages.first.compression.name == "LZW"
    with pytest.raises(FileError, match="can be undone for uint16 samples, found LZW; save it without compression"):
        read_image(path)
    PIL.Image.fromarray(GREY).save(path, compression="jpeg")
    assert abs(read_image(path)[0][0, 0] - GREY).mean() < 30
    with pytest.raises(FileError, match="without losses, found one compressed by JPEG"):
        read_labels(path)


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"compression": "lzw"}])
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.9])
def test_a_tiff_that_was_cut_off_is_one_clear_error(tmp_path, options, kept, capfd):
    noise = rng.integers(0, 256, (90, 91), np.uint8)
    if options.get("compression") == "lzw":
        PIL.Image.fromarray(noise).save(tmp_path / "a.tif", compression="tiff_lzw")
    else:
        tifffile.imwrite(tmp_path / "a.tif", noise, **options)
    content = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(content[: int(len(content) * kept)])
    for read in (read_image, read_labels):
        with pytest.raises(FileError, match=r"a\.tif.*(damaged|cut off)"):
            read(tmp_path / "a.tif")


def test_jpeg_is_an_image_and_no_label_map(tmp_path):
    for name, pixels in {"grey.jpg": GREY, "rgb.jpeg": COLOURS}.items():
        PIL.Image.fromarray(pixels).save(tmp_path / name)
        image, geometry = read_image(tmp_path / name)
        np.testing.assert_array_equal(image, channels(np.asarray(PIL.Image.open(tmp_path / name))))
        assert is_picture(geometry)
        assert label_ending(geometry) == ".png"
        with pytest.raises(FileError, match=rf"{name}: expected a label map .*JPEG, whose compression changes values"):
            read_labels(tmp_path / name)
    PIL.Image.fromarray(COLOURS).convert("CMYK").save(tmp_path / "cmyk.jpg")
    with pytest.raises(FileError, match=r"cmyk\.jpg: expected grey or RGB, found CMYK; save it as RGB"):
        read_image(tmp_path / "cmyk.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "rgb.jpeg").read_bytes()[:-200])
    with pytest.raises(FileError, match=r"cut\.jpg: expected a whole .jpg file"):
        read_image(tmp_path / "cut.jpg")


def test_photographs_lie_as_people_see_them(tmp_path):
    exif = PIL.Image.Exif()
    exif[274] = 6  # turn by a quarter
    PIL.Image.fromarray(COLOURS).save(tmp_path / "a.jpg", exif=exif, quality=95)
    stored = np.asarray(PIL.Image.open(tmp_path / "a.jpg"))
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg")[0], channels(np.rot90(stored, -1)))


@pytest.mark.parametrize("n", [3, 4])
def test_colours_of_sixteen_bits_keep_their_range(tmp_path, n):
    pixels = rng.integers(0, 65536, (5, 7, n), np.uint16)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(pixels, isVector=True), tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[0], channels(pixels[..., :3]))
    pixels = GREY.astype(np.uint16) * 257
    PIL.Image.fromarray(pixels).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png")[0], channels(pixels))
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.dstack([pixels, pixels]), isVector=True), tmp_path / "la.png")
    with pytest.raises(FileError, match=r"la\.png: expected grey without alpha where it has 16 bits"):
        read_image(tmp_path / "la.png")


def test_palettes_and_alpha_of_png(tmp_path):
    palette = PIL.Image.fromarray(GREY % 2)
    palette.putpalette([9, 8, 7, 255, 0, 0])
    palette.save(tmp_path / "p.png", transparency=0)
    np.testing.assert_array_equal(read_labels(tmp_path / "p.png")[0][0], GREY % 2)
    expected = channels(np.array([[9, 8, 7], [255, 0, 0]])[GREY % 2])
    np.testing.assert_array_equal(read_image(tmp_path / "p.png")[0], expected)
    PIL.Image.fromarray(np.dstack([GREY, 255 - GREY])).save(tmp_path / "la.png")
    np.testing.assert_array_equal(read_image(tmp_path / "la.png")[0], channels(GREY))


def test_labels_of_tiff_are_read_and_written_as_png(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", (GREY % 4).astype(np.float32))
    labels, geometry = read_labels(tmp_path / "a.tif")
    np.testing.assert_array_equal(labels[0], GREY % 4)
    write_labels(tmp_path / f"out{label_ending(geometry)}", labels.astype(np.uint8), geometry)
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    np.testing.assert_array_equal(read_labels(tmp_path / "out.png")[0], labels)


def test_a_folder_of_pictures_is_opened_for_prediction(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", GREY)
    PIL.Image.fromarray(GREY).save(tmp_path / "b.JPG")
    PIL.Image.fromarray(GREY).save(tmp_path / "c.png")
    assert images(tmp_path).names == ("a", "b", "c")
    assert [case.image.shape for case in images(tmp_path)] == [(1, 1, 5, 7)] * 3
