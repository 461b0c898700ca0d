"""A synthetic brain with a tumour in four modalities, skull-stripped, with known truth as in BraTS.

Anatomy is written in millimetres around the centre of the volume, and scaled to its field of view. Sizes are ours,
chosen by eye; so are the intensities, whose order within a modality is that of real scans: ED is bright in FLAIR and
T2, ET in T1ce, NCR/NET is dark in T1 and T1ce and bright in T2, and CSF is bright in T2 and dark in FLAIR. No patient's
image went into them.
"""

import numpy as np
from jaxtyping import Bool, Float32, Float64
from scipy import ndimage

from scribbleseg.data.layouts.brats import ED, ET, NCR
from scribbleseg.phantoms.slab import Grid, Spacing, Volume
from scribbleseg.types import Image, Labels

Point = Float64[np.ndarray, "axis"]
Mask = Bool[np.ndarray, "depth height width"]

# T1, T1ce, T2, FLAIR; T1 and T1ce are alike but for what takes up contrast agent
MEANS = {
    "white": (600, 620, 300, 390),
    "grey": (470, 510, 430, 480),
    "csf": (200, 210, 950, 120),
    "lesion": (500, 520, 560, 760),  # of small vessels, as many elderly have: as bright in FLAIR as ED
    "vessel": (300, 1050, 250, 250),  # with the choroid plexus: takes up contrast agent like ET
}
TUMOUR = {NCR: (330, 340, 800, 560), ED: (450, 470, 660, 770), ET: (460, 980, 600, 700)}


def brain_tumour(
    rng: np.random.Generator, shape: Grid, spacing_mm: Spacing, present: frozenset[int] = frozenset((NCR, ED, ET))
) -> tuple[Image, Labels]:
    """Draws a brain with one tumour in one hemisphere.

    Args:
        rng: the only source of variation.
        shape: `(depth, height, width)` in voxels, from below to above, front to back and side to side.
        spacing_mm: along the same axes.
        present: what the tumour is made of: ED (2), with or without a core; the core is NCR/NET (1), with or without a
            rim of ET (3), or all ET.

    Returns:
        The image, float32, `channel depth height width`, the channels T1, T1ce, T2 and FLAIR, whole numbers, exactly 0
        outside the brain and above 0 inside; and the truth, uint8: 0 background, 1 NCR/NET, 2 ED, 3 ET.

    Raises:
        ValueError: a tumour without ED.
    """
    if not {ED} <= present <= {NCR, ED, ET}:
        raise ValueError(f"expected ED (2), with or without NCR/NET (1) and ET (3), got {sorted(present)}")
    head = _Head(rng, shape, spacing_mm)
    tissues = _tissues(head)
    truth = _tumour(head, tissues, present)
    image = np.zeros((4, *shape), np.float32)
    for tissue, mask in tissues.items():
        image[:, mask] = _varied(MEANS[tissue], rng)
    for value, means in TUMOUR.items():
        image[:, truth == value] = _varied(means, rng)
    return _scan(head, image, tissues["white"], truth > 0), truth


class _Head:
    """The places in a brain, in millimetres; the origin is its centre, z points up, y back, x to the side."""

    def __init__(self, rng: np.random.Generator, shape: Grid, spacing_mm: Spacing) -> None:
        self.rng, self.spacing_mm = rng, spacing_mm
        centred = ((np.arange(n, dtype=np.float32) - (n - 1) / 2) * mm for n, mm in zip(shape, spacing_mm, strict=True))
        self.z, self.y, self.x = np.meshgrid(*centred, indexing="ij", sparse=True)
        fov_mm = np.multiply(shape, spacing_mm)
        self.half_mm = fov_mm / 2 * (rng.uniform(0.95, 1.1), rng.uniform(0.84, 0.92), rng.uniform(0.68, 0.76))
        self.unit_mm = self.half_mm[2] / 70  # of a brain 14 cm wide
        self.depth_mm = -self.ellipsoid(np.zeros(3), self.half_mm) + 1.5 * self.unit_mm * self.noise(12.0)
        """Depth below the surface of the brain; negative outside."""

    def ellipsoid(self, centre_mm: Point, half_mm: Point) -> Volume:
        """Returns the signed distance to an ellipsoid, in mm along its shortest axis."""
        (z, y, x), (a, b, c) = centre_mm, half_mm
        radius = np.sqrt(((self.z - z) / a) ** 2 + ((self.y - y) / b) ** 2 + ((self.x - x) / c) ** 2)
        return ((radius - 1) * min(a, b, c)).astype(np.float32)

    def noise(self, scale_mm: float) -> Volume:
        """Returns smooth noise of unit variance; the scale is that of a brain 14 cm wide."""
        sigma = [scale_mm * self.unit_mm / mm for mm in self.spacing_mm]
        white = self.rng.standard_normal(np.broadcast_shapes(self.z.shape, self.y.shape, self.x.shape), np.float32)
        smooth = ndimage.gaussian_filter(white, sigma, truncate=3)
        return smooth / smooth.std()


def _tissues(head: _Head) -> dict[str, Mask]:
    """Returns masks of the healthy tissues; those that come later lie on top."""
    u, mm, depth = head.rng.uniform, head.unit_mm, head.depth_mm
    folds, patches = head.noise(3.5), head.noise(7.0)
    brain = depth > 0
    csf = brain & (depth < 3.5 * mm * (folds - 0.6))  # sulci
    csf |= brain & (np.abs(head.x + mm * patches) < 1.5 * mm) & (depth < 22 * mm)  # between the hemispheres
    grey = brain & (depth < (6 + 3.5 * folds) * mm)
    vessel = np.abs(head.x) + np.abs(depth - 4 * mm) < 3 * mm  # the sagittal sinus
    bright = np.full(depth.shape, False)
    size = u(0.8, 1.3)
    for side in (-1, 1):
        lateral = mm * np.array([u(0, 5), u(-4, 4), 11 * side])
        ventricle = head.ellipsoid(lateral, mm * size * np.array([14, 32, 6.5])) + 1.5 * mm * patches
        csf |= brain & (ventricle < 0)
        bright |= brain & (ventricle < u(1, 4) * mm) & (np.abs(head.y) > 20 * mm)  # caps of the horns
        plexus = mm * np.array([0, 14, 11 * side])
        vessel |= head.ellipsoid(plexus, mm * np.array([3, 7, 3])) < mm * folds
        for y, half_mm in ((u(-16, -8), (11, 14, 8)), (u(8, 16), (11, 11, 9))):  # basal ganglia, thalamus
            nucleus = mm * np.array([-4, y, 26 * side])
            grey |= head.ellipsoid(nucleus, mm * np.array(half_mm)) < 2 * mm * folds
    lesion = (bright | (head.noise(4.0) > u(2.4, 3.2))) & brain & (depth > 8 * mm)
    return {"white": brain, "grey": grey & brain, "csf": csf, "lesion": lesion & ~csf, "vessel": vessel & brain}


def _tumour(head: _Head, tissues: dict[str, Mask], present: frozenset[int]) -> Labels:
    """Returns the tumour's labels: oedema that keeps to the white matter, around a core with a rim."""
    u, mm = head.rng.uniform, head.unit_mm
    side = head.rng.choice([-1, 1])
    at_mm = head.half_mm * (u(-0.3, 0.3), u(-0.4, 0.4), side * u(0.35, 0.5))
    half_mm = np.minimum(mm * u(23, 33) * head.rng.uniform(0.8, 1.25, 3), 0.6 * head.half_mm)
    whole = head.ellipsoid(at_mm, half_mm) + 0.25 * half_mm.min() * head.noise(9.0) + 6 * mm * tissues["grey"]
    core_mm = u(0.6, 0.75) * half_mm
    core = head.ellipsoid(at_mm + u(-0.2, 0.2, 3) * half_mm, core_mm) + 0.12 * core_mm.min() * head.noise(6.0)
    rim_mm = core_mm.min() * u(0.15, 0.28) * np.clip(1 + 0.5 * head.noise(6.0), 0, 1.8)  # with gaps
    inside = (core < 0) & (head.depth_mm > 2 * mm)
    truth = np.zeros(core.shape, np.uint8)
    truth[(whole < 0) & (side * head.x > 0) & (head.depth_mm > 0) & ~tissues["csf"]] = ED
    if present & {NCR, ET}:
        truth[inside] = NCR if NCR in present else ET
    if present >= {NCR, ET}:
        truth[inside & (core > -rim_mm)] = ET
    return truth


def _varied(means: tuple[int, int, int, int], rng: np.random.Generator) -> Float32[np.ndarray, "channel 1"]:
    """Returns the means of a tissue in one case: they vary by 6 % from case to case, T1 and T1ce together."""
    t1, t2, flair = rng.normal(1, 0.06, 3)
    return (np.array(means) * (t1, t1, t2, flair)).astype(np.float32)[:, None]


def _scan(head: _Head, image: Image, brain: Mask, tumour: Mask) -> Image:
    """Returns what scanner and skull-stripping make of it: texture, partial volume, coils, Rician noise."""
    u = head.rng.uniform
    y, x = head.y / head.half_mm[1], head.x / head.half_mm[2]
    scanned = np.zeros_like(image)
    for channel, clean in enumerate(image):
        rough = clean * (1 + np.where(tumour, 0.12, 0.05).astype(np.float32) * head.noise(4.0))
        blurred = ndimage.gaussian_filter(rough, (0.3, 0.6, 0.6))
        field = np.exp(u(-0.15, 0.15) * y + u(-0.15, 0.15) * x + u(-0.1, 0.1) * (x**2 + y**2))
        real, imaginary = head.rng.normal(0, u(15, 30), (2, *clean.shape))
        scanned[channel] = np.hypot(blurred * field + real, imaginary).round().clip(1) * brain
    return scanned
