"""A synthetic prostate in axial T2-weighted MRI, with known truth as in the NCI-ISBI 2013 challenge.

Sizes and intensities are ours, chosen by eye to look like T2-weighted images; no patient's image went into them.
"""

import numpy as np

from scribbleseg.phantoms.slab import Grid, Slab, Spacing, Volume, dome, wrap
from scribbleseg.types import Labels


def prostate(rng: np.random.Generator, shape: Grid, spacing_mm: Spacing) -> tuple[Volume, Labels]:
    """Draws an axial T2-weighted prostate from base (first slice) to apex (last).

    Args:
        rng: the only source of variation.
        shape: `(depth, height, width)` in voxels; a field of view under 65 mm cuts the gland.
        spacing_mm: along the same axes.

    Returns:
        The image, float32, about 0..1000, and the truth, uint8: 0 background, 1 peripheral zone (PZ), 2 central gland
        (CG), the classes of the NCI-ISBI 2013 challenge.
    """
    u = rng.uniform
    s = Slab(rng, shape, spacing_mm, stop=u(0.98, 1.1))
    t, y, paint, ellipse = s.t, s.y, s.paint, s.ellipse
    cy, cx, half_h, half_w = u(-8, 0) + 4 * t, u(-4, 4), u(16, 22), u(22, 29)
    r, angle = s.polar(cy, cx)
    grain, fine, coarse, sweep = (s.noise(mm) for mm in (0.8, 1.6, 4.0, 10.0))

    # Flat behind with a dent in the midline; the central gland lies in front and takes over towards the base.
    dent = 1 - 0.12 * np.exp(-((wrap(angle - np.pi / 2) / 0.35) ** 2))
    outline = dent * (1 + s.wobble(angle, 0.06)) / np.hypot(np.cos(angle) / half_w, np.sin(angle) / half_h)
    bulge = dome((t - 0.45) / 0.62)
    gland = r - outline * bulge + 1
    hyperplasia = u(0.55, 0.85)
    inner = hyperplasia * dome(np.maximum(t - 0.15, 0) / 0.75) + 0.01
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
