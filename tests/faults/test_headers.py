"""Headers that claim what is not there, or lead elsewhere: one error, before anything is allocated or read."""

import gzip
import struct
import zlib

import nibabel as nib
import numpy as np
import PIL.Image
import pytest
import SimpleITK
import tifffile

from scribbleseg.data.formats import checks, read_geometry, read_image, read_labels, read_layers
from scribbleseg.files import FileError

SECRET = bytes(range(64)) * 8


@pytest.fixture(autouse=True)
def little_memory(monkeypatch):
    """Nothing that is claimed may be allocated: NumPy and ITK are not even asked."""
    monkeypatch.setattr(SimpleITK, "GetArrayFromImage", checked(SimpleITK.GetArrayFromImage))


def checked(read):
    def array(image):
        assert np.prod(image.GetSize()) < 10_000
        return read(image)

    return array


def meta(path, *, dims="4 4 4", n="3", kind="MET_UCHAR", file="LOCAL", more="", data=bytes(64)):
    lines = ["ObjectType = Image", f"NDims = {n}", f"DimSize = {dims}", *([more] if more else [])]
    path.write_bytes("\n".join([*lines, f"ElementType = {kind}", f"ElementDataFile = {file}", ""]).encode() + data)
    return path


def nrrd(path, *, sizes="4 4 4", n="3", kind="uint8", encoding="raw", more="", data=bytes(64)):
    lines = ["NRRD0004", f"type: {kind}", f"dimension: {n}", f"sizes: {sizes}", f"encoding: {encoding}"]
    path.write_bytes("\n".join([*lines, *([more] if more else []), "", ""]).encode() + data)
    return path


def nifti(path, *, shape=(4, 4, 4), offset=352.0, kind=nib.Nifti1Header, behind=bytes(64)):
    header = kind()
    header.set_data_shape(shape)
    header.set_data_dtype(np.uint8)
    header["magic"], header["vox_offset"] = kind(binaryblock=None)["magic"], offset
    raw = header.binaryblock + bytes(4) + behind
    path.write_bytes(gzip.compress(raw, 1) if path.suffix == ".gz" else raw)
    return path


def png(path, width=8, height=8, bits=8, kind=0):
    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(height * (width + 1)) if width < 100 else bytes(100)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b""))
    return path


def tiff(path, side=8, compression=None):
    tifffile.imwrite(path, np.zeros((8, 8), np.uint8), compression=compression, metadata=None)
    with tifffile.TiffFile(path, mode="r+b") as file:
        for tag in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            file.pages[0].tags[tag].overwrite(side)
    return path


def series(folder, n=3, change=bytes):
    folder.mkdir()
    for slice_ in range(n):
        image = SimpleITK.GetImageFromArray(np.full((16, 16), slice_, np.int16))
        named = {"0008|0060": "MR", "0020|000e": "1.2.3.4", "0020|000d": "1.2.3", "0008|0018": f"1.2.3.4.{slice_}"}
        place = {"0020|0032": f"0\\0\\{slice_}", "0020|0037": "1\\0\\0\\0\\1\\0"}
        for key, value in (named | place).items():
            image.SetMetaData(key, value)
        writer = SimpleITK.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(folder / f"{slice_}.dcm"))
        writer.Execute(image)
        file = folder / f"{slice_}.dcm"
        file.write_bytes(change(file.read_bytes()))
    return folder


def element(number, value, length=None):
    return struct.pack("<HHI", 0x28, number, len(value) if length is None else length) + value


ROWS, COLUMNS = element(0x10, b"\x10\0"), element(0x11, b"\x10\0")


def test_the_files_below_are_read_where_they_claim_the_truth(tmp_path):
    for file in (
        meta(tmp_path / "a.mha"),
        nrrd(tmp_path / "a.nrrd"),
        nifti(tmp_path / "a.nii"),
        nifti(tmp_path / "b.nii.gz"),
        nifti(tmp_path / "c.nii", kind=nib.Nifti2Header, offset=544),
        png(tmp_path / "a.png"),
        tiff(tmp_path / "a.tif"),
        tiff(tmp_path / "b.tif", compression="deflate"),
        series(tmp_path / "series"),
    ):
        read_image(file)


@pytest.mark.parametrize("sizes", ["1400 1400 1400", "32767 32767 32767", "5 4 4", "4000000000 4000000000 4000000000"])
def test_more_voxels_than_the_file_can_hold_are_refused(sizes, tmp_path):
    shape = tuple(map(int, sizes.split()))
    files = [
        meta(tmp_path / "a.mha", dims=sizes),
        meta(tmp_path / "b.mha", dims=sizes, more="BinaryData = False"),
        nrrd(tmp_path / "a.nrrd", sizes=sizes),
        nrrd(tmp_path / "b.nrrd", sizes=sizes, encoding="hex"),
        nifti(tmp_path / "c.nii", kind=nib.Nifti2Header, shape=shape, offset=544),
    ]
    if shape[0] > 5:
        files += [
            meta(tmp_path / "c.mha", dims=sizes, more="CompressedData = True\nCompressedDataSize = 64"),
            nrrd(tmp_path / "c.nrrd", sizes=sizes, encoding="gzip"),
            nrrd(tmp_path / "d.nrrd", sizes=sizes, encoding="ascii"),
            nifti(tmp_path / "d.nii.gz", kind=nib.Nifti2Header, shape=shape, offset=544),
        ]
    if shape[0] < 2**15:
        files += [nifti(tmp_path / "a.nii", shape=shape), nifti(tmp_path / "b.nii.gz", shape=shape)][: len(files) - 4]
    for file in files:
        for read in (read_image, read_labels, read_geometry):
            with pytest.raises(FileError, match=r"expected \d+ bytes of voxels, as its header says") as raised:
                read(file)
            assert raised.value.file == file


@pytest.mark.parametrize("side", [13000, 60000])
def test_pictures_that_claim_more_than_they_hold_are_refused(side, tmp_path):
    for file in (
        png(tmp_path / "a.png", side, side),
        png(tmp_path / "b.png", side, side, 16, 2),
        tiff(tmp_path / "a.tif", side),
        tiff(tmp_path / "b.tif", side, "deflate"),
    ):
        with pytest.raises(FileError, match="bytes of voxels, as its header says"):
            read_image(file)


def test_the_bound_holds_for_files_that_keep_their_word(monkeypatch, tmp_path):
    """A compressed file can: half a megabyte of zeros is half a gigabyte of voxels."""
    PIL.Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.jpg")
    PIL.Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "c.tif", compression="tiff_lzw")
    files = [
        *(meta(tmp_path / "a.mha"), nrrd(tmp_path / "a.nrrd"), nifti(tmp_path / "a.nii"), nifti(tmp_path / "b.nii.gz")),
        *(png(tmp_path / "a.png"), tiff(tmp_path / "a.tif"), tmp_path / "a.jpg", tmp_path / "c.tif"),
        series(tmp_path / "series"),
    ]
    for file in files:
        read_image(file)
    monkeypatch.setattr(checks, "MOST_VALUES", 63)
    for file in files:
        with pytest.raises(FileError, match=r"at most 63 values .*; crop it"):
            read_image(file)


def test_a_series_is_bound_as_a_whole(monkeypatch, tmp_path):
    monkeypatch.setattr(checks, "MOST_VALUES", 16 * 16 * 3)
    read_image(series(tmp_path / "three"))
    with pytest.raises(FileError, match="at most"):
        read_image(series(tmp_path / "four", n=4))


def test_the_pages_of_a_tiff_are_not_all_looked_at(monkeypatch, tmp_path):
    """A damaged directory of pages may lead on and on, and tifffile would follow it to find series of pages."""
    monkeypatch.setattr(tifffile.TiffFile, "series", property(lambda _: pytest.fail("would look at all pages")))
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((3, 8, 8), np.uint8), photometric="minisblack", metadata=None)
    with pytest.raises(FileError, match="found a TIFF of 3 pages"):
        read_image(tmp_path / "a.tif")


def test_pillows_own_bound_says_what_to_do(monkeypatch, tmp_path):
    file = png(tmp_path / "a.png", 60, 60)
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 2000)
    read_image(file)  # beyond a half of it Pillow warns: nobody needs that
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(FileError, match="expected fewer pixels.*cut it into smaller pictures"):
        read_image(file)


def test_numbers_that_crash_foreign_readers_are_refused(tmp_path):
    for n in ("-1", "0", "1", "4", "11", "100", "3.5", "x", "", "99999999999999999999"):
        with pytest.raises(FileError):
            read_image(meta(tmp_path / "a.mha", n=n))
    for n in ("-1", "0", "17", "4294967299", "x", ""):
        with pytest.raises(FileError):
            read_image(nrrd(tmp_path / "a.nrrd", n=n))
    for sizes in ("-4 -4 4", "0 4 4", "4 4", "4 4 4 4", "4 4 1e3", "nan 4 4"):
        with pytest.raises(FileError):
            read_image(meta(tmp_path / "a.mha", dims=sizes))
        with pytest.raises(FileError):
            read_image(nrrd(tmp_path / "a.nrrd", sizes=sizes))
    for channels in ("0", "-1", "1000000000", "x"):
        with pytest.raises(FileError):
            read_image(meta(tmp_path / "a.mha", more=f"ElementNumberOfChannels = {channels}"))
    for offset in (-1.0, 1e30, float("nan"), float("inf"), 2.0**31):
        with pytest.raises(FileError):
            read_image(nifti(tmp_path / "a.nii", offset=offset))


def test_a_header_that_says_something_twice_is_refused(tmp_path):
    """Two readers may take another one of them each."""
    with pytest.raises(FileError, match="NDims once"):
        read_image(meta(tmp_path / "a.mha", more="NDims = -1"))
    with pytest.raises(FileError, match="datafile once"):
        read_image(nrrd(tmp_path / "a.nhdr", more="data file: a.raw\ndatafile: ../a.raw"))


def test_unpacking_ends_where_the_header_ends(tmp_path):
    bomb = zlib.compress(bytes(2**25), 1)
    for file in (
        nifti(tmp_path / "a.nii.gz", behind=bytes(64 + 2**25)),
        nrrd(tmp_path / "a.nrrd", encoding="gzip", data=gzip.compress(bytes(2**25), 1)),
        meta(tmp_path / "a.mha", more=f"CompressedData = True\nCompressedDataSize = {len(bomb)}", data=bomb),
    ):
        with pytest.raises(FileError, match="more"):
            read_image(file)


def test_a_dicom_file_that_claims_other_pixels_than_it_has_is_refused(tmp_path):
    def larger(n):
        rows = struct.pack("<H", n)
        return lambda stored: stored.replace(ROWS, element(0x10, rows)).replace(COLUMNS, element(0x11, rows))

    for n in (17, 1400, 60000):
        with pytest.raises(FileError, match="bytes of voxels, as its header says"):
            read_image(series(tmp_path / f"rows {n}", change=larger(n)))
    with pytest.raises(FileError, match="bytes of voxels, as its header says"):
        read_image(series(tmp_path / "frames", change=lambda stored: stored.replace(ROWS, element(8, b"9999") + ROWS)))
    begin = element(0xF, b"", length=0x5FFFFFF0)
    with pytest.raises(FileError, match=r"expected elements that fit .*\(0028,000f\) of 1610612720"):
        read_image(series(tmp_path / "length", change=lambda stored: stored.replace(ROWS, begin + ROWS)))


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "sub/secret", "..\\secret", "link", "../x/secret", "."])
def test_a_header_leads_to_no_file_elsewhere(name, tmp_path):
    """A file from a stranger could have any file on this machine read."""
    (folder := tmp_path / "x").mkdir()
    (folder / "sub").mkdir()
    for place in (tmp_path / "secret", folder / "sub" / "secret", folder / "..\\secret"):
        place.write_bytes(SECRET)
    (folder / "link").symlink_to(tmp_path / "secret")
    name = name if name != "/etc/passwd" else str(tmp_path / "secret")
    for file in (
        meta(folder / "a.mhd", file=name, data=b""),
        nrrd(folder / "a.nhdr", more=f"data file: {name}", data=b""),
        nrrd(folder / "b.nhdr", more=f"DATAFILE: {name}", data=b""),
        nrrd(folder / "a.nrrd", more=f"data file: {name}"),
    ):
        for read in (read_image, read_geometry):
            with pytest.raises(FileError, match=r"in the same folder|no such file"):
                read(file)


@pytest.mark.parametrize("name", ["LIST", "LIST 2", "s%03d.raw 1 4 1", "-", ""])
def test_voxels_in_several_files_are_refused(name, tmp_path):
    for n in range(1, 5):
        (tmp_path / f"s{n:03d}.raw").write_bytes(bytes(16))
    files = "\n".join(f"s{n:03d}.raw" for n in range(1, 5)).encode()
    with pytest.raises(FileError):
        read_image(meta(tmp_path / "a.mhd", file=name, data=files))
    with pytest.raises(FileError):
        read_image(nrrd(tmp_path / "a.nhdr", more=f"data file: {name}", data=files))
    start = b"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 4 4 4\nencoding: raw\ndata file: LIST\n"
    (tmp_path / "b.nhdr").write_bytes(start + files)  # without the empty line
    with pytest.raises(FileError):
        read_image(tmp_path / "b.nhdr")


def test_voxels_in_a_file_beside_the_header_are_read(tmp_path):
    """Under a plain name with spaces, and where the header itself is a link, as git-annex leaves it."""
    (tmp_path / "my voxels.raw").write_bytes(SECRET[:64])
    (tmp_path / "same.raw").symlink_to(tmp_path / "my voxels.raw")
    for name in ("my voxels.raw", "same.raw"):
        for file in (
            meta(tmp_path / "a.mhd", file=name, data=b""),
            nrrd(tmp_path / "a.nhdr", more=f"data file: {name}", data=b""),
        ):
            assert read_image(file)[0].ravel().tolist() == list(SECRET[:64])


def test_lines_that_hide_a_field_hide_nothing(tmp_path):
    (tmp_path / "secret").write_bytes(SECRET)
    (folder := tmp_path / "x").mkdir()
    for more in (
        "data file: ../secret:=x",
        "# note\rdata file: ../secret",
        " data file: ../secret",
        "Data File: ../secret",
        "content: x\x0bdata file: ../secret\ndata file: ../secret",
        "content: x\0\ndata file: ../secret",
    ):
        with pytest.raises(FileError):
            read_image(nrrd(folder / "a.nhdr", more=more, data=b""))
    for more in ("Comment = ElementDataFile = ../secret", "ElementDataFile = ../secret", "Comment = x\0"):
        with pytest.raises(FileError):
            read_image(meta(folder / "a.mhd", more=more, data=b""))


@pytest.mark.parametrize(
    "more",
    [
        "Comment = x\rElementDataFile = own.raw",  # a line ends there for us, and not for ITK
        "Offset = 0 0\nElementDataFile = own.raw",  # ITK takes the third number from the next line
        "ID =\nElementDataFile = own.raw",
        "X = 1\nElementDataFile: own.raw = 1",
    ],
)
def test_a_metaimage_header_has_one_meaning(more, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "secret").write_bytes(SECRET)
    (tmp_path / "folder" / "own.raw").write_bytes(bytes(64))
    lines = ["ObjectType = Image", "NDims = 3", "DimSize = 4 4 4", "ElementType = MET_UCHAR", more]
    file = tmp_path / "folder" / "a.mhd"
    file.write_text("\n".join([*lines, "ElementDataFile = ../secret", ""]), newline="")
    with pytest.raises(FileError, match=r"a\.mhd: expected"):
        read_image(file)


@pytest.mark.parametrize(
    "more",
    [
        "X = 1\nDimSize: 40 40 40 = 1",  # ITK takes a colon for an equals sign
        "Offset = 1",
        "ElementSize = 1 1",
        "TransformMatrix = 1 0 0",
        "Offset = nan 0 0",
        "HeaderSize = 10",  # ITK would read the header as voxels
        "HeaderSize = -2",
        "HeaderSize = 3\nCompressedData = True\nCompressedDataSize = 12",
    ],
)
def test_what_itk_would_take_for_something_else_is_refused(more, tmp_path):
    data = zlib.compress(bytes(64)) if "Compressed" in more else bytes(64)
    with pytest.raises(FileError, match=r"a\.mha: expected .*found '?(.*= 1|1|1 1|1 0 0|nan 0 0|10|-2|3)"):
        read_image(meta(tmp_path / "a.mha", more=more, data=data))


def test_bytes_before_the_voxels_are_passed_over(tmp_path):
    (tmp_path / "v.raw").write_bytes(b"\5" * 10 + bytes(64))
    for name, file in (("a.mhd", meta), ("a.nhdr", nrrd)):
        more = (
            {"more": "HeaderSize = 10", "file": "v.raw"}
            if file is meta
            else {"more": "byte skip: 10\ndata file: v.raw"}
        )
        assert not read_image(file(tmp_path / name, data=b"", **more))[0].any()
        for wrong in ("11", "-2"):
            changed = {key: value.replace("10", wrong) for key, value in more.items()}
            with pytest.raises(FileError, match=r"expected .*found"):
                read_image(file(tmp_path / name, data=b"", **changed))


def test_a_header_is_not_its_own_voxels(tmp_path):
    with pytest.raises(FileError, match="expected its voxels in another file, found its own name"):
        read_image(meta(tmp_path / "a.mhd", file="a.mhd"))
    with pytest.raises(FileError, match="its voxels begin 0 bytes behind its beginning"):
        read_image(nifti(tmp_path / "a.nii", offset=0))


def test_a_nrrd_written_on_windows_is_read(tmp_path):
    file = nrrd(tmp_path / "a.nrrd", data=b"")
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n") + bytes(range(64)))
    assert read_labels(file)[0].ravel().tolist() == list(range(64))


def test_a_png_has_one_header(tmp_path):
    file = png(tmp_path / "a.png")
    content = file.read_bytes()
    other = png(tmp_path / "b.png", width=4).read_bytes()[8:33]
    file.write_bytes(content[:33] + other + content[33:])
    with pytest.raises(FileError, match=r"a\.png: .*its header \(IHDR\) once"):
        read_image(file)


@pytest.mark.parametrize("tag", ["StripOffsets", "StripByteCounts"])
@pytest.mark.parametrize("n_pages", [1, 3])
def test_parts_of_a_tiff_that_are_nowhere_are_not_zeros(tag, n_pages, tmp_path):
    file = tmp_path / "a.tif"
    pixels = np.ones((n_pages, 8, 8), np.uint8)
    tifffile.imwrite(file, pixels, compression="deflate", metadata=None, photometric="minisblack")
    assert read_layers(file)[0].all()
    with tifffile.TiffFile(file, mode="r+b") as opened:
        opened.pages[-1].tags[tag].overwrite(0)
    with pytest.raises(FileError, match="does not say where all of its pixels are"):
        read_layers(file)


def test_a_stack_of_pages_that_claim_more_than_it_holds_is_refused(tmp_path):
    file = tmp_path / "a.tif"
    tifffile.imwrite(file, np.ones((3, 8, 8), np.uint8), metadata=None, photometric="minisblack")
    with tifffile.TiffFile(file, mode="r+b") as opened:
        for page in opened.pages:
            for tag in ("ImageWidth", "ImageLength", "RowsPerStrip"):
                page.tags[tag].overwrite(60000)
    with pytest.raises(
        FileError, match=r"expected 10800000000 bytes of voxels, as its header says \(3 x 60000 x 60000"
    ):
        read_layers(file)


@pytest.mark.parametrize(
    ("what", "old", "new"),
    [
        ("direction", rb"1\0\0\0\1\0", rb"0\1\0\1\0\0"),
        ("size", ROWS, element(0x10, b"\x08\0")),
        ("bits of a pixel", element(0x100, b"\x10\0"), element(0x100, b"\x08\0")),
        ("sign of pixels", element(0x103, b"\1\0"), element(0x103, b"\0\0")),
    ],
)
def test_a_slice_that_is_unlike_the_others_of_its_series_is_named(what, old, new, tmp_path):
    """The voxels of all are read as those of the first."""
    folder = series(tmp_path / "series")
    file = folder / "1.dcm"
    content = file.read_bytes()
    assert content.count(old) == 1
    file.write_bytes(content.replace(old, new))
    with pytest.raises(FileError, match=f"expected the {what} of the other slices") as raised:
        read_image(folder)
    assert raised.value.file == file
