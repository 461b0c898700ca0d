"""Synthetic hearts and prostates with known truth and human-like scribbles, and data sets of them and of brain tumours.

Anatomy is written in millimetres, as closed curves around a long axis, and painted back to front on three sub-slices
per slice, which are then averaged: thick slices blur oblique walls, as in a scanner. Sizes and intensities are ours,
chosen by eye to look like cine SSFP and T2-weighted images; no patient's image went into them.
"""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from jaxtyping import Bool, Float32, Float64
from scipy import ndimage
from skimage.graph import MCP_Geometric

from scribbleseg.data.brats import ED, ET, NCR
from scribbleseg.data.tumour_phantom import Grid, Spacing, brain_tumour
from scribbleseg.data.volumes import FileError, write_labels
from scribbleseg.types import UNLABELLED, DataError, Geometry, Labels

VERSION = 1  # raise it when the pictures change, so that an old set on disk is not taken for a new one
SUB = 3  # sub-slices per slice; odd, so that the middle one carries the truth

Volume = Float32[np.ndarray, "depth height width"]


def heart(rng: np.random.Generator, shape: Grid, spacing_mm: Spacing) -> tuple[Volume, Labels]:
    """A short-axis heart from base (first slice) to apex (last), in diastole or somewhere in systole.

    Args:
        rng: the only source of variation.
        shape: `(depth, height, width)` in voxels; a field of view under 140 mm cuts the heart.
        spacing_mm: along the same axes.

    Returns:
        The image, float32, about 0..1000, and the truth, uint8: 0 background, 1 right ventricle (RV), 2 myocardium
        (Myo), 3 left ventricle (LV) with its papillary muscles, as in ACDC.
    """
    u = rng.uniform
    s = _Slab(rng, shape, spacing_mm, stop=u(0.95, 1.18))  # some stacks go past the apex
    t, y, x, paint, ellipse = s.t, s.y, s.x, s.paint, s.ellipse
    breath = np.repeat(rng.normal(0, 0.7, (2, shape[0])), SUB, axis=1)[..., None, None]  # one breath-hold a slice
    cy, cx = u(-10, 2) + 6 * t + breath[0], u(6, 18) + 6 * t + breath[1]  # the long axis leans
    r, angle = s.polar(cy, cx)

    # Systole empties the cavities and thickens the wall; cardiomyopathies are the tails of the ranges.
    systole = rng.integers(2) * u(0.5, 1)
    endo_mm, wall_mm, rv_mm = u(21, 29) * (1 - 0.4 * systole), u(6, 10.5) * (1 + 0.4 * systole), u(28, 42)
    septum = np.pi + u(-0.5, 0.3)  # the RV lies to the left in the picture, a little up or down
    outline = 1 + s.wobble(angle, 0.16)
    infarct = 1 - u(0, 0.35) * np.exp(-((_wrap(angle - u(-np.pi, np.pi)) / 0.6) ** 2))  # thin where it scarred
    endo = endo_mm * _dome(t / 0.95) * outline - 1
    epi = (endo_mm + wall_mm * infarct) * _dome(t / 1.06) * outline
    span = u(1.2, 1.5) * _dome(t / u(0.8, 0.95)) + 1e-3  # half the angle that the RV takes around the LV
    crescent = np.cos(np.clip(_wrap(angle - septum) / span, -1, 1) * np.pi / 2) ** 0.8
    free_wall = epi + rv_mm * (1 - 0.35 * systole) * span / 1.5 * crescent * (1 + s.wobble(angle, 0.15)) - 3
    lv, myo = r - endo, r - epi  # distances in mm, negative inside
    rv = np.max([r - free_wall, epi - r, epi + 2.5 - free_wall], axis=0)  # ends where it is thinner than a pixel

    # What lies around the heart shares its intensities: fat, vessels and atria with blood, liver with muscle.
    fine, coarse, patches, sweep = (s.noise(mm) for mm in (2.0, 3.0, 6.0, 12.0))
    blood = u(560, 850) * (1 + 0.10 * patches)  # slow flow
    muscle, fat, lung = u(190, 350), u(450, 850), u(15, 60)
    s.image[:] = lung
    paint(1.9 - fine, 0.6 * blood)  # lung vessels
    diaphragm = cy + endo_mm + wall_mm + u(0, 9) + 0.0025 * (x - u(-10, 30)) ** 2 + 3 * sweep - y
    paint(diaphragm - 4, fat)  # the heart rests on it
    paint(diaphragm, muscle * u(0.7, 1.2) * (1 + 0.1 * patches))  # liver, its vessels, and the stomach
    paint(np.maximum(1.8 - coarse, diaphragm + 5), 0.8 * blood)
    paint(ellipse(u(70, 85), u(25, 60), u(15, 28), u(15, 30)), blood * u(0.3, 1.1))
    aorta = ellipse(u(42, 58), u(35, 65), 12, 12)
    paint(aorta - 2, lung)
    paint(aorta, blood * u(0.85, 1.05))
    chest = 4 * sweep - ellipse(u(20, 30), u(35, 50), u(78, 92), u(90, 105))
    paint(chest, muscle * (0.7 + 0.2 * coarse))  # ribs and muscle, fat, and the air outside
    paint(chest + u(7, 12), fat * (1.1 + 0.2 * np.minimum(coarse, 0)))
    paint(chest + u(26, 40), 8.0)

    surface = r - np.maximum(epi, free_wall)
    paint(surface - 5, lung + 0.3 * muscle)  # pericardium, and patches of fat under it
    paint(np.maximum(surface - 4, 3 * (u(-0.6, 0.4) - patches)), fat)
    below = septum - u(1.2, 2.0)
    atrium = ellipse(cy + 34 * np.sin(below), cx + 34 * np.cos(below), u(14, 20), u(14, 20))
    paint(atrium + 100 * (t - u(0, 0.2)), 0.9 * blood)  # beside the most basal slices only
    paint(r - free_wall - 3, muscle)  # the RV's own wall is background in every convention
    paint(rv, blood * u(0.72, 0.95))
    paint(np.max([rv, 1.0 - fine, free_wall - r - 12], axis=0), 1.2 * muscle)  # trabeculae
    paint(myo, muscle * (1 + 0.08 * coarse))
    paint(lv + 2.0 * np.maximum(fine, 0), blood)  # the wall is rough inside
    for direction in (septum + u(1.9, 2.4), septum - u(1.9, 2.4)):  # the papillary muscles
        at = 0.62 * endo_mm * _dome(t / 0.95)
        papilla = ellipse(cy + at * np.sin(direction), cx + at * np.cos(direction), u(3, 5), u(3, 5))
        paint(np.maximum(papilla, 30 * (np.abs(t - 0.55) - u(0.2, 0.3))), 1.15 * muscle)
    return s.scan(coil=(-1.0, -1.0), sigma=u(18, 40)), s.truth(rv, myo, lv)


def prostate(rng: np.random.Generator, shape: Grid, spacing_mm: Spacing) -> tuple[Volume, Labels]:
    """An axial T2-weighted prostate from base (first slice) to apex (last).

    Args:
        rng: the only source of variation.
        shape: `(depth, height, width)` in voxels; a field of view under 65 mm cuts the gland.
        spacing_mm: along the same axes.

    Returns:
        The image, float32, about 0..1000, and the truth, uint8: 0 background, 1 peripheral zone (PZ), 2 central gland
        (CG), the classes of the NCI-ISBI 2013 challenge.
    """
    u = rng.uniform
    s = _Slab(rng, shape, spacing_mm, stop=u(0.98, 1.1))
    t, y, paint, ellipse = s.t, s.y, s.paint, s.ellipse
    cy, cx, half_h, half_w = u(-8, 0) + 4 * t, u(-4, 4), u(16, 22), u(22, 29)
    r, angle = s.polar(cy, cx)
    grain, fine, coarse, sweep = (s.noise(mm) for mm in (0.8, 1.6, 4.0, 10.0))

    # Flat behind with a dent in the midline; the central gland lies in front and takes over towards the base.
    dent = 1 - 0.12 * np.exp(-((_wrap(angle - np.pi / 2) / 0.35) ** 2))
    outline = dent * (1 + s.wobble(angle, 0.06)) / np.hypot(np.cos(angle) / half_w, np.sin(angle) / half_h)
    bulge = _dome((t - 0.45) / 0.62)
    gland = r - outline * bulge + 1
    hyperplasia = u(0.55, 0.85)
    inner = hyperplasia * _dome(np.maximum(t - 0.15, 0) / 0.75) + 0.01
    cg_y = cy - 1.2 * (1 - hyperplasia) * half_h * bulge - 1
    central = np.maximum(ellipse(cg_y, cx + u(-1.5, 1.5), half_h * inner, 0.95 * half_w * inner) + 1.2 * sweep, gland)

    muscle = u(90, 160)
    fat, pz, cg = muscle * u(2.6, 4), muscle * u(3, 5.5), muscle * u(1.7, 2.8)
    s.image[:] = fat * (1 + 0.15 * fine - 0.15 * coarse)
    paint(1.4 - fine, pz)  # veins and nerves
    paint(2.0 + fine, muscle)
    for side in (-1, 1):  # obturator internus, levator ani
        paint(ellipse(u(-5, 5), side * u(48, 54), u(38, 48), u(14, 18)) + coarse, muscle * (1 + 0.1 * fine))
    paint(np.maximum(np.abs(ellipse(10, 0, 40, 33) + coarse) - 1.2, -y), muscle)
    front, back = cy - half_h, cy + half_h
    paint(np.maximum(ellipse(front - u(4, 8), cx, u(12, 16), u(20, 28)), 60 * (t - u(0.15, 0.4))), 1.3 * pz)  # bladder
    paint(np.maximum(ellipse(front - 14, cx, 10, u(3, 7)), 60 * (u(0.4, 0.7) - t)), 0.7 * muscle)  # symphysis
    rectum = ellipse(back + u(12, 16), cx + u(-4, 4), u(8, 12), u(11, 18)) + sweep
    paint(rectum - 3, muscle * u(1, 1.6))
    paint(rectum, 0.3 * muscle)  # gas, and some stool
    paint(np.maximum(rectum + 1, 3 * (u(0, 2) - coarse)), 0.8 * pz)

    paint(gland - 0.8, 1.2 * muscle)  # the capsule
    paint(gland, pz * (1 + 0.12 * grain + 0.15 * coarse))
    tumour = ellipse(cy + 0.5 * half_h, cx + rng.choice([-0.6, 0.6]) * half_w, u(3, 6), u(3, 6)) + 0.5 * coarse
    paint(np.maximum(tumour + 25 * np.abs(t - u(0.4, 0.7)), gland + 1), 0.9 * cg)  # dark, and still peripheral zone
    paint(central, muscle)  # the surgical capsule
    paint(central + 1.2, cg * (1 + 0.15 * grain + 0.15 * fine))
    for _ in range(rng.integers(6, 14)):  # nodules in dark rims; glandular ones are bright, stromal ones dark
        at = cg_y + hyperplasia * half_h * u(-0.7, 0.7), cx + hyperplasia * half_w * u(-0.7, 0.7)
        nodule = ellipse(*at, u(2, 7), u(2, 7)) + 35 * np.abs(t - u(0, 0.7)) + 0.5 * fine
        paint(np.maximum(nodule - 0.8, central + 1.2), muscle)
        paint(np.maximum(nodule, central + 1.2), cg * u(0.6, 1.8) * (1 + 0.2 * grain))
    return s.scan(coil=(0.5, 0.0), sigma=u(12, 25)), s.truth(gland, central)


class Organ(NamedTuple):
    """What draws it, what its labels are called, and the usual grid."""

    draw: Callable[[np.random.Generator, Grid, Spacing], tuple[Volume, Labels]]
    label_names: tuple[str, ...]
    spacing_mm: Spacing


ORGANS = {
    "heart": Organ(heart, ("background", "RV", "Myo", "LV"), (10.0, 1.8, 1.8)),
    "prostate": Organ(prostate, ("background", "PZ", "CG"), (4.0, 0.9, 0.9)),
}


TUMOUR = "tumour"
USUAL_SHAPE: dict[str, Grid] = {"heart": (8, 96, 96), "prostate": (8, 96, 96), TUMOUR: (24, 96, 96)}
TUMOUR_SPACING_MM = (3.0, 2.0, 2.0)
TUMOUR_PRESENT = ({NCR, ED, ET}, {NCR, ED, ET}, {NCR, ED}, {NCR, ED, ET}, {ED}, {NCR, ED, ET})
"""Of case 0, 1, ..., and so on again: a third has no ET, one in six nothing but oedema. Ours."""


def draw_scribbles(truth: Labels, rng: np.random.Generator) -> Labels:
    """Scribbles as a person draws them, slice by slice: pen lines inside each structure, loops around all of them.

    They imitate what we measured in ACDC's expert scribbles (Valvano et al. 2021, DOI 10.1109/TMI.2021.3069634): every
    structure of every slice has a stroke of one or two pieces, 0.2 to 1.0 times as long as the structure's border and
    off that border; background is drawn 10 to 35 mm around the heart, also in slices that have none.

    Args:
        truth: `depth height width`; 0 background, 1.. structures.
        rng: the only source of variation.

    Returns:
        Of the same shape; equal to `truth` where drawn, UNLABELLED elsewhere.
    """
    drawn = np.zeros(truth.shape, bool)
    occupied = np.flatnonzero((truth > 0).any((1, 2)))
    for z, labels in enumerate(truth):
        for value in np.unique(labels[labels > 0]):
            drawn[z] |= _pen_line(rng, labels == value)
        nearest = occupied[np.abs(occupied - z).argmin()] if len(occupied) else z
        drawn[z] |= (labels == 0) & _loop(rng, truth[nearest] > 0)
    return np.where(drawn, truth, np.uint8(UNLABELLED))


def write_phantoms(
    folder: str | Path, organ: str = "heart", train: int = 12, test: int = 8, seed: int = 0, shape: Grid | None = None
) -> Path:
    """Writes a data set, or finds the same one there: hearts and prostates in the layout `folder`, tumours in `brats`.

    It is made beside its place and moved there when complete, so a killed call leaves no half-made set. Case k of
    either part depends on `(seed, part, k)` only: a larger set contains the smaller one.

    Args:
        folder: absent or empty. In it: images/, scribbles/ (training cases), masks/ (all cases) and dataset.json; or of
            tumours train/CASE/ and test/CASE/ with four modalities and a mask each, no scribbles, and phantoms.json.
        organ: "heart", "prostate" or "tumour".
        train: number of training cases, train000, train001, ...
        test: number of test cases, test000, ...; they have no scribbles.
        seed: not negative.
        shape: `(depth, height, width)`; default `USUAL_SHAPE`. Each heart or prostate has its own matrix and spacing
            around that; brains share a grid of (3, 2, 2) mm.

    Returns:
        `folder`.

    Raises:
        DataError: no such organ, something else in the folder, or the files cannot be written.
    """
    folder = Path(folder)
    if organ not in USUAL_SHAPE:
        raise DataError(f"organ: expected one of {', '.join(USUAL_SHAPE)}, got {organ!r}")
    shape = shape or USUAL_SHAPE[organ]
    made_by = {"version": VERSION, "organ": organ, "train": train, "test": test, "seed": seed, "shape": list(shape)}
    file, description = _description(organ, made_by)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        _expect_same(folder / file, description)
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
            unfinished = Path(temporary) / folder.name
            for part, count in enumerate((train, test)):
                for k in range(count):
                    if organ == TUMOUR:
                        _write_brain(unfinished, shape, part, k, seed)
                    else:
                        _write_case(unfinished, ORGANS[organ], shape, part, k, seed)
            (unfinished / file).write_text(json.dumps(description, indent=2) + "\n")
            unfinished.replace(folder)
    except (OSError, FileError) as error:
        raise DataError(
            f"{folder}: could not write the phantoms ({error}); free the disk or name another folder"
        ) from error
    return folder


def _description(organ: str, made_by: dict) -> tuple[str, dict]:
    """A file and what stands in it; `made_by` tells this set from another, and readers of the layout pass it over."""
    if organ == TUMOUR:
        return "phantoms.json", {"phantoms": made_by}
    labels = {name: value for value, name in enumerate((*ORGANS[organ].label_names, "ignore"))}
    return "dataset.json", {
        "channel_names": {"0": "MRI"},
        "labels": labels,
        "file_ending": ".nii.gz",
        "phantoms": made_by,
    }


def _expect_same(file: Path, description: dict) -> None:
    """Raises DataError unless `file` describes exactly the phantoms that are wanted; it is written last, with them."""
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        found = None
    if found != description:
        what = found.get("phantoms", "another data set") if isinstance(found, dict) else "something else"
        raise DataError(
            f"{file}: expected the phantoms {description['phantoms']}, found {what}; "
            "name another folder, or delete this one first"
        )


def _write_brain(root: Path, shape: Grid, part: int, k: int, seed: int) -> None:
    """One case in BraTS 2021's naming, with 4 for ET."""
    rng = np.random.default_rng((seed, part, k))
    name = f"{('train', 'test')[part]}{k:03d}"
    case = root / ("train", "test")[part] / name
    image, truth = brain_tumour(rng, shape, TUMOUR_SPACING_MM, frozenset(TUMOUR_PRESENT[k % len(TUMOUR_PRESENT)]))
    affine = _lps(TUMOUR_SPACING_MM)
    case.mkdir(parents=True)
    for modality, channel in zip(("t1", "t1ce", "t2", "flair"), image, strict=True):
        nib.save(nib.Nifti1Image(channel.astype(np.int16).T, affine), case / f"{name}_{modality}.nii.gz")
    truth[truth == ET] = 4
    write_labels(case / f"{name}_seg.nii.gz", truth, Geometry(truth.shape, affine))


def _lps(spacing_mm: Spacing) -> Float64[np.ndarray, "4 4"]:
    """As DICOM's rows and columns run."""
    return np.diag([-spacing_mm[2], -spacing_mm[1], spacing_mm[0], 1.0])


def _write_case(root: Path, organ: Organ, shape: Grid, part: int, k: int, seed: int) -> None:
    rng = np.random.default_rng((seed, part, k))
    zoom = rng.uniform(0.78, 1.12)  # in-plane 1.4 to 2.0 mm for hearts, at about the same field of view
    spacing_mm = (organ.spacing_mm[0], round(organ.spacing_mm[1] * zoom, 4), round(organ.spacing_mm[2] * zoom, 4))
    height, width = (2 * round(n / zoom * rng.uniform(0.95, 1.05) / 2) for n in shape[1:])
    image, truth = organ.draw(rng, (shape[0] + int(rng.integers(-1, 2)), height, width), spacing_mm)
    affine = _lps(spacing_mm)
    geometry, file = Geometry(image.shape, affine), f"{('train', 'test')[part]}{k:03d}.nii.gz"
    (root / "images").mkdir(parents=True, exist_ok=True)
    # nibabel writes gzip without a time stamp: same seed, same bytes.
    nib.save(nib.Nifti1Image(image.round().astype(np.int16).T, affine), root / "images" / file)
    write_labels(root / "masks" / file, truth, geometry)
    if part == 0:
        scribbles = draw_scribbles(truth, rng)
        scribbles[scribbles == UNLABELLED] = len(organ.label_names)  # "ignore" on disk
        write_labels(root / "scribbles" / file, scribbles, geometry)


class _Slab:
    """The sub-slices of a volume as a canvas in millimetres; the origin is the centre of the picture, y points down."""

    def __init__(self, rng: np.random.Generator, shape: Grid, spacing_mm: Spacing, stop: float) -> None:
        depth, height, width = shape
        along = (np.arange(depth * SUB, dtype=np.float32) + 0.5) / (depth * SUB)
        self.t = (stop * along)[:, None, None]  # 0 at the base, 1 at the apex
        self.y = ((np.arange(height, dtype=np.float32) - (height - 1) / 2) * spacing_mm[1])[None, :, None]
        self.x = ((np.arange(width, dtype=np.float32) - (width - 1) / 2) * spacing_mm[2])[None, None, :]
        self.image = np.zeros((depth * SUB, height, width), np.float32)
        self.rng, self.pixel_mm = rng, spacing_mm[1]

    def paint(self, distance_mm: np.ndarray, value: float | np.ndarray) -> None:
        """Covers what lies inside (negative distance); the pixel on the edge is shared, as partial volume."""
        self.image += np.clip(0.5 - distance_mm / self.pixel_mm, 0, 1) * (value - self.image)

    def polar(self, cy: np.ndarray, cx: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        """Radius in mm and angle around a centre."""
        return np.hypot(self.y - cy, self.x - cx), np.arctan2(self.y - cy, self.x - cx)

    def ellipse(self, cy, cx, ry, rx) -> np.ndarray:  # type: ignore[no-untyped-def]  # floats, or arrays over t
        """Distance in mm to an ellipse, along the ray from its centre."""
        dy, dx = self.y - cy, self.x - cx
        return np.hypot(dy, dx) * (1 - 1 / (np.hypot(dy / ry, dx / rx) + 1e-3))

    def wobble(self, angle: np.ndarray, amplitude: float) -> np.ndarray:
        """How a closed curve deviates from a circle, within +-amplitude: harmonics 2 to 5 that turn along the axis."""
        total = np.zeros_like(angle)
        for k in range(2, 6):
            phase, twist = self.rng.uniform(0, 2 * np.pi), self.rng.normal(0, 0.7)
            total += self.rng.uniform(0, 1) / k * np.cos(k * angle + phase + twist * self.t)
        return amplitude / sum(1 / k for k in range(2, 6)) * total

    def noise(self, scale_mm: float) -> np.ndarray:
        """Smooth noise of unit variance."""
        sigma = scale_mm / self.pixel_mm
        white = self.rng.standard_normal(self.image.shape, dtype=np.float32)
        smooth = ndimage.gaussian_filter(white, (1, sigma, sigma), truncate=3)
        return smooth / smooth.std()

    def scan(self, coil: tuple[float, float], sigma: float) -> Volume:
        """What the scanner makes of it: thick slices, a point spread, coils on the side `coil` (y, x), Rician noise."""
        u = self.rng.uniform
        thick = self.image.reshape(-1, SUB, *self.image.shape[1:]).mean(1)
        blurred = ndimage.gaussian_filter(thick, (0, u(0.4, 0.7), u(0.4, 0.7)))
        y, x = self.y / 100, self.x / 100
        blurred *= np.exp(u(0, 0.5) * (coil[0] * y + coil[1] * x) + u(-0.3, 0.3) * x * y + u(-0.3, 0.3) * (x**2 - y**2))
        real, imaginary = self.rng.normal(0, sigma, (2, *blurred.shape))
        return np.hypot(blurred + real, imaginary).astype(np.float32)

    def truth(self, *distances_mm: np.ndarray) -> Labels:
        """Labels 1.. by signed distance at the voxel centres; later ones lie on top."""
        labels = np.zeros(self.image.shape, np.uint8)
        for value, distance_mm in enumerate(distances_mm, start=1):
            labels[distance_mm < 0] = value
        return labels[SUB // 2 :: SUB]


def _dome(t: np.ndarray) -> np.ndarray:
    """A half ellipse: 1 at t = 0, 0 from |t| = 1 on."""
    return np.sqrt(np.clip(1 - t**2, 0, None))


def _wrap(angle: np.ndarray) -> np.ndarray:
    """To [-pi, pi)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


def _pen_line(rng: np.random.Generator, region: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    """A line inside `region`: cheapest paths from point to point over a rough terrain that rises at the border."""
    to_border = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    inside = to_border >= min(2, to_border.max())
    points = np.argwhere(inside)
    outer_border = (ndimage.distance_transform_edt(np.pad(ndimage.binary_fill_holes(region), 1)) == 1).sum()
    wanted = max(3, min(rng.uniform(0.35, 0.95) * outer_border, 0.2 * region.sum()))
    terrain = np.where(inside, np.exp(ndimage.gaussian_filter(rng.normal(0, 10, region.shape), 3)), np.inf)
    terrain /= to_border.clip(1, 3)
    line = np.zeros_like(region)
    at = rng.choice(points)
    line[tuple(at)] = True
    for _ in range(6):
        # A pen seldom goes over its own line.
        hills = MCP_Geometric(np.where(ndimage.binary_dilation(line), 5, 1) * terrain)
        cost, _ = hills.find_costs([at])
        reached = points[np.isfinite(cost[tuple(points.T)])]
        candidates = rng.choice(reached, 3)
        to = candidates[np.hypot(*(candidates - at).T).argmax()]
        for pixel in hills.traceback(to):
            if line.sum() >= wanted:
                return line
            line[pixel] = True
        at = to if rng.random() < 0.7 else rng.choice(points)  # now and then the pen is lifted
    return line


def _loop(rng: np.random.Generator, structures: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    """Most of a wobbly loop 6 to 14 pixels outside of `structures`, or around the middle of the picture without any."""
    if not structures.any():
        structures = structures.copy()
        structures[tuple(n // 2 for n in structures.shape)] = True
    distance = ndimage.distance_transform_edt(~structures)
    level = min(rng.uniform(6, 14), 0.5 * distance.max())
    inside = distance < level + 40 * ndimage.gaussian_filter(rng.normal(0, 1, structures.shape), 7)
    ring = inside & ~ndimage.binary_erosion(inside, border_value=1) & (distance >= 3)
    y, x = (
        axis - centre
        for axis, centre in zip(np.indices(structures.shape), ndimage.center_of_mass(structures), strict=True)
    )
    turn = (np.arctan2(y, x) - rng.uniform(-np.pi, np.pi)) % (2 * np.pi)
    return ring & (turn < rng.uniform(0.5, 1.1) * 2 * np.pi)
