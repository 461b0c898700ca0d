"""Fingerprints: digests by which a run knows that it is resumed on the data it was started with."""

import hashlib

import numpy as np

from scribbleseg.types import Case, Cases


class Fingerprint:
    """A sha256 of what training sees of cases: names, intensities, labels and geometry; cases are added one by one.

    The same images give the same fingerprint wherever they lie and however they are compressed; another label encoding,
    masks in the place of scribbles, or other image-level labels give another. So does another order.
    """

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, case: Case) -> None:
        """Adds a case to the digest."""
        affine = np.round(case.geometry.affine, 4) + 0.0  # 1e-4 mm; and -0.0 is 0.0
        self._digest.update(f"{case.name} {case.image.shape}".encode())
        for array in (affine, case.image, case.scribbles):
            self._digest.update(array.tobytes())
        if case.present is not None:
            self._digest.update(f"present {sorted(case.present)}".encode())

    def hexdigest(self) -> str:
        """Returns the digest of the cases that have been added so far; more can be added."""
        return self._digest.hexdigest()


def fingerprint(cases: Cases) -> str:
    """Returns the `Fingerprint` of all these cases. Reads each of them once."""
    whole = Fingerprint()
    for case in cases:
        whole.add(case)
    return whole.hexdigest()
