"""What a loss sees: a batch of slices or blocks as the network sees them, and all that is known or believed of them."""

from dataclasses import dataclass, fields

from jaxtyping import Bool, Float, UInt8
from torch import Tensor

OPTIONAL = frozenset({"clean", "scribbles", "soft", "confidence", "inside"})
"""The parts of a `Batch` that are there only if a loss says that it needs them."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Slices, or blocks of slices, on one grid. Absent parts are None; images and labels are always there.

    Args:
        images: normalised intensities as the network sees them: moved, then with gain, brightness and noise.
        labels: what the network learns from, UNLABELLED where nobody knows.
        clean: the same intensities, moved and nothing else, for losses that compare intensities.
        scribbles: what a person drew, UNLABELLED elsewhere; nothing outside `inside`.
        soft: a probability for each label; all 0 where nobody knows.
        confidence: how sure the labels are, from 0 to 1; 0 where nobody knows.
        inside: where the pixel shows the image: no padding, no air around a brain.
    """

    images: Float[Tensor, "batch channel *space"]
    labels: UInt8[Tensor, "batch *space"]
    clean: Float[Tensor, "batch channel *space"] | None = None
    scribbles: UInt8[Tensor, "batch *space"] | None = None
    soft: Float[Tensor, "batch label *space"] | None = None
    confidence: Float[Tensor, "batch *space"] | None = None
    inside: Bool[Tensor, "batch *space"] | None = None

    def parts(self) -> dict[str, Tensor]:
        """The parts that are there, by name."""
        return {field.name: part for field in fields(self) if (part := getattr(self, field.name)) is not None}
