"""A stack of thick slices as a canvas, for organs that are painted as closed curves around a long axis.

Anatomy is written in millimetres and painted back to front on three sub-slices per slice, which are then averaged:
thick slices blur oblique walls, as in a scanner.
"""

import numpy as np
from jaxtyping import Float32
from scipy import ndimage

from scribbleseg.types import Labels

SUB = 3  # sub-slices per slice; odd, so that the middle one carries the truth

Grid = tuple[int, int, int]
Spacing = tuple[float, float, float]
Volume = Float32[np.ndarray, "depth height width"]


class Slab:
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
        """Returns radius in mm and angle around a centre."""
        return np.hypot(self.y - cy, self.x - cx), np.arctan2(self.y - cy, self.x - cx)

    def ellipse(self, cy, cx, ry, rx) -> np.ndarray:  # type: ignore[no-untyped-def]  # floats, or arrays over t
        """Returns the distance in mm to an ellipse, along the ray from its centre."""
        dy, dx = self.y - cy, self.x - cx
        return np.hypot(dy, dx) * (1 - 1 / (np.hypot(dy / ry, dx / rx) + 1e-3))

    def wobble(self, angle: np.ndarray, amplitude: float) -> np.ndarray:
        """Returns how a curve deviates from a circle, within +-amplitude: harmonics 2 to 5 that turn along the axis."""
        total = np.zeros_like(angle)
        for k in range(2, 6):
            phase, twist = self.rng.uniform(0, 2 * np.pi), self.rng.normal(0, 0.7)
            total += self.rng.uniform(0, 1) / k * np.cos(k * angle + phase + twist * self.t)
        return amplitude / sum(1 / k for k in range(2, 6)) * total

    def noise(self, scale_mm: float) -> np.ndarray:
        """Returns smooth noise of unit variance."""
        sigma = scale_mm / self.pixel_mm
        white = self.rng.standard_normal(self.image.shape, dtype=np.float32)
        smooth = ndimage.gaussian_filter(white, (1, sigma, sigma), truncate=3)
        return smooth / smooth.std()

    def scan(self, coil: tuple[float, float], sigma: float) -> Volume:
        """Returns the scanner's image: thick slices, a point spread, coils on the side `coil` (y, x), Rician noise."""
        u = self.rng.uniform
        thick = self.image.reshape(-1, SUB, *self.image.shape[1:]).mean(1)
        blurred = ndimage.gaussian_filter(thick, (0, u(0.4, 0.7), u(0.4, 0.7)))
        y, x = self.y / 100, self.x / 100
        blurred *= np.exp(u(0, 0.5) * (coil[0] * y + coil[1] * x) + u(-0.3, 0.3) * x * y + u(-0.3, 0.3) * (x**2 - y**2))
        real, imaginary = self.rng.normal(0, sigma, (2, *blurred.shape))
        return np.hypot(blurred + real, imaginary).astype(np.float32)

    def truth(self, *distances_mm: np.ndarray) -> Labels:
        """Returns labels 1.. by signed distance at the voxel centres; later ones lie on top."""
        labels = np.zeros(self.image.shape, np.uint8)
        for value, distance_mm in enumerate(distances_mm, start=1):
            labels[distance_mm < 0] = value
        return labels[SUB // 2 :: SUB]


def dome(t: np.ndarray) -> np.ndarray:
    """Returns a half ellipse: 1 at t = 0, 0 from |t| = 1 on."""
    return np.sqrt(np.clip(1 - t**2, 0, None))


def wrap(angle: np.ndarray) -> np.ndarray:
    """Returns the same angle in [-pi, pi)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi
