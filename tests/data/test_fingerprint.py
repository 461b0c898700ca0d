import hashlib

import numpy as np

from scribbleseg.data.fingerprint import Fingerprint, fingerprint
from scribbleseg.types import Case, Cases, Geometry


def make_cases(n=3, present=None) -> Cases:
    def read(name):
        rng = np.random.default_rng(int(name))
        image = rng.normal(size=(2, 2, 3, 4)).astype(np.float32)
        scribbles = rng.integers(0, 3, (2, 3, 4)).astype(np.uint8)
        return Case(name, image, scribbles, Geometry((2, 3, 4), np.diag([2.0, 2.0, 9.0, 1.0])), present)

    return Cases([str(k) for k in range(n)], read)


def test_cases_added_one_by_one_give_the_fingerprint_of_all():
    one_by_one = Fingerprint()
    for k, case in enumerate(make_cases()):
        one_by_one.add(case)
        assert one_by_one.hexdigest() == fingerprint(make_cases(k + 1))  # asking ends nothing


def test_it_is_the_sha256_of_names_shapes_affines_voxels_and_what_is_present():
    """Written out: old run folders hold such digests, so a change would refuse to resume them."""
    parts = []
    for case in make_cases(2, frozenset({2, 1})):
        parts += [f"{case.name} (2, 2, 3, 4)".encode(), np.diag([2.0, 2.0, 9.0, 1.0]).tobytes()]
        parts += [case.image.tobytes(), case.scribbles.tobytes(), b"present [1, 2]"]
    assert fingerprint(make_cases(2, frozenset({2, 1}))) == hashlib.sha256(b"".join(parts)).hexdigest()


def test_the_order_of_the_cases_counts():
    cases = make_cases()
    assert fingerprint(cases) != fingerprint(cases.only(["1", "0", "2"]))
