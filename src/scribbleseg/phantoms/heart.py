"""A synthetic heart in short-axis cine MRI, with known truth as in ACDC.

Sizes and intensities are ours, chosen by eye to look like cine SSFP; no patient's image went into them.
"""

from typing import NamedTuple

import numpy as np

from scribbleseg.phantoms.slab import SUB, Grid, Slab, Spacing, Volume, dome, wrap
from scribbleseg.types import Labels


class _Tissue(NamedTuple):
    """The intensities of the tissues; blood flows slowly here and there, so it has one for each voxel."""

    blood: np.ndarray
    muscle: float
    fat: float
    lung: float


class _Noise(NamedTuple):
    """Smooth noise on four scales, from the finest to the coarsest."""

    fine: np.ndarray
    coarse: np.ndarray
    patches: np.ndarray
    sweep: np.ndarray


def heart(rng: np.random.Generator, shape: Grid, spacing_mm: Spacing) -> tuple[Volume, Labels]:
    """Draws a short-axis heart from base (first slice) to apex (last), in diastole or somewhere in systole.

    Args:
        rng: the only source of variation.
        shape: `(depth, height, width)` in voxels; a field of view under 140 mm cuts the heart.
        spacing_mm: along the same axes.

    Returns:
        The image, float32, about 0..1000, and the truth, uint8: 0 background, 1 right ventricle (RV), 2 myocardium
        (Myo), 3 left ventricle (LV) with its papillary muscles, as in ACDC.
    """
    u = rng.uniform
    s = Slab(rng, shape, spacing_mm, stop=u(0.95, 1.18))  # some stacks go past the apex
    t, paint, ellipse = s.t, s.paint, s.ellipse
    breath = np.repeat(rng.normal(0, 0.7, (2, shape[0])), SUB, axis=1)[..., None, None]  # one breath-hold a slice
    cy, cx = u(-10, 2) + 6 * t + breath[0], u(6, 18) + 6 * t + breath[1]  # the long axis leans
    r, angle = s.polar(cy, cx)

    # Systole empties the cavities and thickens the wall; cardiomyopathies are the tails of the ranges.
    systole = rng.integers(2) * u(0.5, 1)
    endo_mm, wall_mm, rv_mm = u(21, 29) * (1 - 0.4 * systole), u(6, 10.5) * (1 + 0.4 * systole), u(28, 42)
    septum = np.pi + u(-0.5, 0.3)  # the RV lies to the left in the picture, a little up or down
    outline = 1 + s.wobble(angle, 0.16)
    infarct = 1 - u(0, 0.35) * np.exp(-((wrap(angle - u(-np.pi, np.pi)) / 0.6) ** 2))  # thin where it scarred
    endo = endo_mm * dome(t / 0.95) * outline - 1
    epi = (endo_mm + wall_mm * infarct) * dome(t / 1.06) * outline
    span = u(1.2, 1.5) * dome(t / u(0.8, 0.95)) + 1e-3  # half the angle that the RV takes around the LV
    crescent = np.cos(np.clip(wrap(angle - septum) / span, -1, 1) * np.pi / 2) ** 0.8
    free_wall = epi + rv_mm * (1 - 0.35 * systole) * span / 1.5 * crescent * (1 + s.wobble(angle, 0.15)) - 3
    lv, myo = r - endo, r - epi  # distances in mm, negative inside
    rv = np.max([r - free_wall, epi - r, epi + 2.5 - free_wall], axis=0)  # ends where it is thinner than a pixel

    noise = _Noise(*(s.noise(mm) for mm in (2.0, 3.0, 6.0, 12.0)))
    fine, coarse, patches = noise.fine, noise.coarse, noise.patches
    blood = u(560, 850) * (1 + 0.10 * patches)  # slow flow
    muscle, fat, lung = u(190, 350), u(450, 850), u(15, 60)
    tissue = _Tissue(blood, muscle, fat, lung)
    _paint_surroundings(s, tissue, noise, cy + endo_mm + wall_mm)

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
        at = 0.62 * endo_mm * dome(t / 0.95)
        papilla = ellipse(cy + at * np.sin(direction), cx + at * np.cos(direction), u(3, 5), u(3, 5))
        paint(np.maximum(papilla, 30 * (np.abs(t - 0.55) - u(0.2, 0.3))), 1.15 * muscle)
    return s.scan(coil=(-1.0, -1.0), sigma=u(18, 40)), s.truth(rv, myo, lv)


def _paint_surroundings(s: Slab, tissue: _Tissue, noise: _Noise, bottom: np.ndarray) -> None:
    """Paints what lies around the heart, which shares its intensities: fat and vessels with blood, liver with muscle.

    Args:
        s: the canvas, empty.
        tissue: the intensities.
        noise: what makes outlines and tissues uneven.
        bottom: y of the lower end of the heart, in mm, in each sub-slice.
    """
    u, paint, ellipse = s.rng.uniform, s.paint, s.ellipse
    blood, muscle, fat, lung = tissue
    fine, coarse, patches, sweep = noise
    s.image[:] = lung
    paint(1.9 - fine, 0.6 * blood)  # lung vessels
    diaphragm = bottom + u(0, 9) + 0.0025 * (s.x - u(-10, 30)) ** 2 + 3 * sweep - s.y
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
