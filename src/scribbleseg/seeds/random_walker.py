"""Seed areas by Grady's random walker: scribbles grow as far as a walker is nearly sure to end on them.

A walker starts at a pixel and steps to neighbours (4 in a picture, 6 in a volume), seldom across an edge of the image.
The probability that the first scribble it meets has label k is the pixel's probability of k (Grady 2006, DOI
10.1109/TPAMI.2006.233). Can et al. 2018 keep the pixels above a threshold tau as seed areas.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64, Int
from scipy import ndimage
from scipy.sparse import coo_array

from scribbleseg.data.dimensions import parts
from scribbleseg.progress import within
from scribbleseg.seeds.checks import check_volume
from scribbleseg.seeds.grow import Volume
from scribbleseg.seeds.laplacian import Dirichlet, Nodes, elimination_places, solve_directly, solve_iteratively
from scribbleseg.seeds.likelihood import Likelihood, told_apart
from scribbleseg.seeds.scaling import Block, scaling
from scribbleseg.types import UNLABELLED, Image, Labels, Probabilities

Seeds = Int[np.ndarray, "depth height width"]
"""The column of each seed in the linear system, FREE elsewhere."""

Shown = Bool[np.ndarray, "depth height width"]

Pull = Float64[np.ndarray, "column depth height width"]
"""The weight of the edge from each pixel to each label, wherever its seeds are."""

FREE = -1

WEIGHT_FLOOR = 1e-10
"""Added to every weight, as scikit-image does. It keeps the grid connected: no pixel is out of reach of the seeds."""

TOLERANCE = 3e-3
"""Largest preconditioned residual, an estimate of the error of a probability, that is left in a volume; ours: a third
of what tau 0.99 leaves open. 1e-4 makes the mean error ten times smaller and takes 1.3 times as long."""

ROUNDING = 1e-9
"""Largest error that a factorisation leaves in a probability, weights being 1e-10 to 1; ours."""

DECIDED = 1e-5
"""Largest error of a probability that cropping may cause; ours, far below anything that tau could notice."""

MARGIN = 32
"""Pixels around the structures' scribbles in the first, cropped attempt; ours: on ACDC enough for 4 slices of 5."""

TAUS = (0.99, 0.95, 0.9, 0.8)
"""What tau is chosen from where a recipe leaves it to the data; ours. Can et al. have 0.99 and 0.90."""

LIKELIEST = 0.5
"""Where one label is likelier than all others together."""

MAJORITY = 0.501
"""The tau that labels nearly everything; ours."""

NEAR = 1.5
"""Slices that are at most so many pixels apart are walked across; ours. It helps on BraTS, whose are half a pixel of a
2 mm grid apart, and harms on PROMISE12, whose would be nearly two."""

LIKELIHOOD = 0.01
"""What intensities count where they tell strokes apart; ours. On BraTS the likeliest labels have a Dice of 0.75 without
them and of 0.83, 0.89 and 0.87 with 0.001, 0.01 and 0.05 (docs/LOG.md)."""

APART = 0.9
"""Share of the strokes that intensities have to give the right label for that; ours. On BraTS it is 0.93; on the heart
and the prostate, where intensities harm, 0.71 and 0.77."""

GROWN = 0.4
"""Structures have grown where their areas are this share of what the walker would label without any tau; ours. With
beta 400, tau 0.99 gives 0.46 on the heart and 0.10 on the prostate, where 0.8 gives 0.47 (docs/LOG.md)."""


@dataclass(frozen=True)
class RandomWalker:
    """Seed areas where `max_k p_k >= tau`, with `p` the random walker's probabilities; the scribbles themselves stay.

    The weight of the edge between two neighbouring pixels is scikit-image's:

        w = exp(-beta / (10 sd sqrt(channels)) * sum_c (difference_c / spacing)^2) + 1e-10

    where each channel is first scaled to [0, 1] by its own minimum and maximum, of the volume or of each slice, and sd
    is the standard deviation of the scaled block, all channels together. A block is a slice where `dimensions` is 2 and
    the volume where it is 3. Spacing is in units of the pixel width, so that in-plane it is 1 for square pixels. As in
    scikit-image, a *larger* distance between slices makes the step between them *easier*; with thick slices prefer 2.

    Where scikit-image divides by zero, this does not: in a constant block every weight is 1.

    Not for blocks with scribbles of one class only: there the walker has no choice, so they stay as scribbled. A class
    that is scribbled in no pixel of a slice has probability 0 there, so a slice that shows any structure needs a
    background stroke, too.

    Args:
        kind: tag in recipes.
        tau: smallest probability of a seed, in (0.5, 1]; 0.99 in Can et al. 2018 for cardiac MRI, 0.90 for prostate.
            None leaves it to the scribbles: the largest of TAUS at which structures grow (ours, see `fitted`).
        beta: the larger, the harder an edge of the image is to cross. The earlier code of Can et al.'s group has 1000
            on slices scaled to [-1, 1], which is 2000 on [0, 1]: the differences are halved and so is sd.
        dimensions: 2, each slice on its own, solved directly (error below 1e-5); 3, across slices, solved iteratively
            (on ACDC the mean error is below 1e-4, a voxel's largest 1e-2, or 6e-2 if voxels are taken as cubic). None
            is 3 for volumes whose slices are at most NEAR pixels apart, and 2 for others (ours). Large volumes are
            walked in overlapping parts (`data.dimensions.parts`).
        scale: what is scaled to [0, 1]: the "volume", or each "slice" by itself, as the group's earlier code does.
        empty: what becomes of a slice in which background alone is scribbled: it stays "unlabelled", or is "background"
            (ours): somebody looked at it, and drew no structure. Structures that a walker reaches across slices tell
            more.
        likelihood: what the intensities on the volume's strokes count: from any pixel a walker also steps to label k,
            by an edge of weight `likelihood * P(k | intensities)` (Grady 2005, DOI 10.1109/CVPR.2005.239). 0 leaves
            them out, as Can et al. do; None is LIKELIHOOD where they tell strokes apart, else 0 (ours).
    """

    kind: Literal["random_walker"] = "random_walker"
    tau: float | None = 0.99
    beta: float = 1000.0
    dimensions: Literal[2, 3] | None = 2
    scale: Literal["volume", "slice"] = "volume"
    empty: Literal["unlabelled", "background"] = "unlabelled"
    likelihood: float | None = 0.0

    def __post_init__(self) -> None:
        if self.tau is not None and not 0.5 < self.tau <= 1.0:
            raise ValueError(f"tau: expected a probability in (0.5, 1], got {self.tau}")
        if not 0.0 < self.beta < np.inf:
            raise ValueError(f"beta: expected a positive number, got {self.beta}")
        if self.likelihood is not None and not 0.0 <= self.likelihood < np.inf:
            raise ValueError(f"likelihood: expected a number that is not negative, got {self.likelihood}")
        if self.dimensions not in (2, 3, None):
            raise ValueError(f"dimensions: expected 2 (slices), 3 (the volume) or None, got {self.dimensions}")

    def goes_across(self, spacing_mm: Sequence[float]) -> bool:
        """Whether it walks from slice to slice of a volume with voxels of this size, along `(depth, height, width)`."""
        return self.dimensions == 3 or (self.dimensions is None and spacing_mm[0] <= NEAR * spacing_mm[-1])

    def probabilities(self, image: Image, scribbles: Labels, spacing_mm: Sequence[float]) -> Probabilities:
        """Returns the probability of each label at each voxel.

        Args:
            image: float32 `channel depth height width`, in any unit.
            scribbles: uint8 `depth height width`.
            spacing_mm: voxel size along `(depth, height, width)`.

        Returns:
            float32 `label depth height width`, labels 0 to the largest scribbled one (at least two), in [0, 1], sums
            to 1 over the labels. At scribbles it is 1 for their label. Where the walker is undefined (a block with
            scribbles of fewer than two classes, but see `empty`) it is the same for all labels, so never above tau.

        Raises:
            DataError: shapes that do not fit, or an image that is not finite.
        """
        return np.concatenate([found for _, found in self._blocks(image, scribbles, spacing_mm)], axis=1)

    def _blocks(
        self, image: Image | Block, scribbles: Labels, spacing_mm: Sequence[float], scaled: bool = False
    ) -> Iterator[tuple[slice, Probabilities]]:
        """Yields what `probabilities` returns block by block, with the slices of each: a volume's take memory."""
        check_volume(image, scribbles, spacing_mm, "random walker")
        scale = np.asarray if scaled else scaling(image, self.scale)
        n_labels = max(int(scribbles.max(where=scribbles != UNLABELLED, initial=0)) + 1, 2)
        spacing = np.asarray(spacing_mm, dtype=np.float64) / spacing_mm[-1]
        across = self.goes_across(spacing_mm)
        likely = (
            Likelihood.of(image, scribbles, n_labels) if self.likelihood and (scribbles != UNLABELLED).any() else None
        )
        slices = [(slice(z, z + 1),) * 2 for z in range(len(scribbles))]
        blocks = list(parts(len(scribbles), scribbles[0].size)) if across else slices
        for seen, given in within(blocks, len(blocks), len(scribbles)):
            drawn = np.asarray(scribbles[seen])
            probabilities = np.full((n_labels, *drawn.shape), 1.0 / n_labels, dtype=np.float32)
            pull = None if likely is None else self.likelihood * likely(image[:, seen])
            _walk(scale(image[:, seen]), drawn, spacing, self.beta, probabilities, pull)
            alone = self.empty == "background" and not (across and _of_structures(drawn))
            for z, drawn_here in enumerate(drawn):
                if alone and set(np.unique(drawn_here)) - {UNLABELLED} == {0}:
                    probabilities[:, z] = 0.0
                    probabilities[0, z] = 1.0
            yield given, probabilities[:, given.start - seen.start :][:, : given.stop - given.start]

    def __call__(self, image: Image, scribbles: Labels, spacing_mm: Sequence[float]) -> Labels:
        """Returns the seed areas, uint8 `depth height width`. Arguments and errors as in `probabilities`."""
        volumes = [(image, scribbles, spacing_mm)]
        walker = self.with_likelihood(volumes).with_tau(volumes)
        assert walker.tau is not None, "chosen"
        return _grown(walker._blocks(image, scribbles, spacing_mm), scribbles, walker.tau)

    def grow_scaled(self, scaled: Block, scribbles: Labels, spacing_mm: Sequence[float]) -> Labels:
        """Returns the seed areas in an image that is scaled to [0, 1] already; arguments and errors as in `__call__`.

        This is for a few slices of a volume: on the scale of the whole they get the areas that they have in it, but for
        what the intensities of strokes elsewhere say. Raises ValueError where something is left to the scribbles.
        """
        if self.tau is None or self.likelihood is None:
            raise ValueError("tau and likelihood: expected numbers, got None; use `with_likelihood` and `with_tau`")
        return _grown(self._blocks(scaled, scribbles, spacing_mm, scaled=True), scribbles, self.tau)

    def with_likelihood(self, volumes: Iterable[Volume]) -> "RandomWalker":
        """Returns the walker with a likelihood that these volumes choose, where it has none.

        It is LIKELIHOOD where intensities tell the strokes apart (`told_apart`), in the mean over volumes at least by
        APART, and else 0.
        """
        if self.likelihood is not None:
            return self
        shares = [told_apart(image, scribbles) for image, scribbles, _ in volumes if _of_structures(scribbles)]
        return replace(self, likelihood=LIKELIHOOD if shares and np.mean(shares) >= APART else 0.0)

    def with_tau(self, volumes: Iterable[Volume], shown: Iterable[Shown] = ()) -> "RandomWalker":
        """Returns the walker with a tau that these volumes choose, where it has none.

        Where intensities count it is MAJORITY: what the walker then finds is right on both sides of a border, and a
        network learns more from all of it than from one side. Else it is the largest of TAUS at which structures grow
        in these volumes, or the least.

        What grows counts where the volume is `shown`, bool `depth height width` for each of them; if none is given,
        everywhere. In the air around a brain a walker goes anywhere, and no training looks there. Where a walker at tau
        0.99 hardly leaves the scribbles, a network has next to nothing to learn a structure from; where it does leave
        them, a smaller tau labels more pixels wrongly. "Grow" is to the share GROWN of where the structure is the
        likeliest label, for half of the structures or more.
        """
        if self.tau is not None:
            return self
        if self.likelihood:
            return replace(self, tau=MAJORITY)
        counts = np.zeros((len(TAUS) + 1, UNLABELLED), int)
        for (image, scribbles, spacing_mm), inside in zip_longest(volumes, shown):
            for block, probabilities in self._blocks(image, scribbles, spacing_mm):
                for n, tau in enumerate((*TAUS, LIKELIEST)):
                    areas = _areas(probabilities, scribbles[block], tau)
                    areas = areas if inside is None else areas[inside[block]]
                    counts[n] += np.bincount(areas.ravel(), minlength=UNLABELLED + 1)[:UNLABELLED]
        *grown, likeliest = counts[:, 1:]
        structures = likeliest > 0
        if not structures.any():
            return replace(self, tau=TAUS[0])
        shares = [np.median(areas[structures] / likeliest[structures]) for areas in grown]
        enough = [tau for tau, share in zip(TAUS, shares, strict=True) if share >= GROWN]
        return replace(self, tau=max(enough, default=min(TAUS)))


AUTOMATIC = RandomWalker(tau=None, beta=400.0, dimensions=None, empty="background", likelihood=None)
"""The walker of our own recipes, which fits tau, dimensions and likelihood to the data (docs/LOG.md)."""


def _grown(blocks: Iterable[tuple[slice, Probabilities]], scribbles: Labels, tau: float) -> Labels:
    """Returns the areas of blocks, which are worked on one after the other."""
    areas = np.empty(scribbles.shape, np.uint8)
    for block, probabilities in blocks:
        areas[block] = _areas(probabilities, scribbles[block], tau)
    return areas


def _of_structures(scribbles: Labels) -> bool:
    """Whether any structure is scribbled."""
    return bool(((scribbles != UNLABELLED) & (scribbles > 0)).any())


def _areas(probabilities: Probabilities, scribbles: Labels, tau: float) -> Labels:
    """Returns what is at least that probable, and the scribbles."""
    sure = probabilities.max(axis=0) >= tau
    labels = np.where(sure, probabilities.argmax(axis=0), UNLABELLED).astype(np.uint8)
    return np.where(scribbles != UNLABELLED, scribbles, labels)


def _walk(
    block: Block, scribbles: Labels, spacing: np.ndarray, beta: float, out: Probabilities, pull: Pull | None = None
) -> None:
    """Writes the probabilities of one block into `out`, which holds 1 / n_labels. `pull` is of all labels."""
    drawn = scribbles != UNLABELLED
    labels = np.unique(scribbles[drawn])
    if len(labels) >= 2:
        seeds = np.where(drawn, np.searchsorted(labels, scribbles), FREE)
        weights = _weights(block, spacing, beta)
        # Through a volume, walkers go round the background strokes of a slice: on ACDC no crop could be proved right.
        pull = None if pull is None else pull[labels]
        found = _solve_cropped(weights, seeds, len(labels)) if len(seeds) == 1 and pull is None else None
        out[:] = 0.0
        out[labels] = _solve(weights, seeds, len(labels), pull) if found is None else found
    for k in labels:  # also in blocks of one class, where nothing else is known
        out[:, scribbles == k] = 0.0
        out[k, scribbles == k] = 1.0


def _weights(block: Block, spacing: np.ndarray, beta: float) -> list[np.ndarray]:
    """Returns the grid's edge weights along depth, height and width; each array is one shorter along its own axis."""
    sd = block.std()
    scale = beta / (10.0 * sd * np.sqrt(block.shape[0])) if sd > 0 else 0.0
    squares = [np.square(np.diff(block, axis=axis + 1) / spacing[axis]).sum(axis=0) for axis in range(3)]
    return [np.exp(-scale * square) + WEIGHT_FLOOR for square in squares]


def _dirichlet(weights: list[np.ndarray], seeds: Seeds, n: int, nodes: Nodes, pull: Pull | None = None) -> Dirichlet:
    """Returns the linear system of `nodes`, the flat indices of the FREE pixels, with `n` columns of seeds."""
    free, size = seeds == FREE, len(nodes)
    number = np.empty(free.shape, dtype=np.int32)
    number.ravel()[nodes] = np.arange(size)
    rows, columns, between, touching = [], [], [], []
    for axis, weight in enumerate(weights):
        here = (slice(None),) * axis + (slice(None, -1),)
        there = (slice(None),) * axis + (slice(1, None),)
        inside = free[here] & free[there]
        rows.append(number[here][inside])
        columns.append(number[there][inside])
        between.append(weight[inside])
        for a, b in ((here, there), (there, here)):
            onto = free[a] & ~free[b]
            touching.append((number[a][onto] * n + seeds[b][onto], weight[onto]))
    i, j, w = np.concatenate(rows), np.concatenate(columns), np.concatenate(between)
    upper = coo_array((w, (i, j)), shape=(size, size)).tocsr()
    place, to_seeds = (np.concatenate(arrays) for arrays in zip(*touching, strict=True))
    to_seeds = np.bincount(place, to_seeds, minlength=size * n).reshape(size, n)
    if pull is not None:
        to_seeds += pull.reshape(n, -1)[:, nodes].T
    return Dirichlet((upper + upper.T).tocsr(), to_seeds)


def _solve(weights: list[np.ndarray], seeds: Seeds, n: int, pull: Pull | None = None) -> np.ndarray:
    """Returns float64 `column depth height width`: the probability of each of `n` columns, 0 or 1 at seeds."""
    probabilities = (seeds == np.arange(n)[:, None, None, None]).astype(np.float64)
    nodes = np.flatnonzero(seeds == FREE)
    depth, height, width = seeds.shape
    picture = depth == 1
    if picture:  # one order, of a power of two, serves slices and crops of all shapes
        places = elimination_places(1 << (max(height, width) - 1).bit_length())[:height, :width]
        nodes = nodes[np.argsort(places.ravel()[nodes], kind="stable")]
    if len(nodes):
        problem = _dirichlet(weights, seeds, n, nodes, pull)
        found = solve_directly(problem, ordered=True) if picture else solve_iteratively(problem, TOLERANCE)
        probabilities.reshape(n, -1)[:, nodes] = found.T
    return probabilities


def _solve_cropped(weights: list[np.ndarray], seeds: Seeds, n: int) -> np.ndarray | None:
    """Returns what `_solve` does, but from a crop; None where the result cannot be proved right to DECIDED.

    Let all seeds outside a box be of one label, the outer one (background, most often), and make "has left the box" a
    label of its own. For a walker from x in the box, let u(x) be the probability to end on any label but the outer
    one without having left, v(x) that to end on the outer label without having left, h = 1 - u - v that to leave. Let
    C be a closed contour in the box around all seeds of the other labels, and M the largest u / (u + v) on it.

    The true probability p of ending on another label is at most M on C: p(x) = u(x) + h(x) E[p(where it leaves)], and
    from outside the walker has to come back across C before it meets such a seed, so E[p] <= max p over C. It is at
    most M outside, too, and inside differs from u by at most h M. So where M <= DECIDED the rest of the image is
    decided, and to leave is to end on the outer label. C is the best of the nested rectangles around the seeds.
    """
    outer, box = _box_around_others(seeds, n)
    if seeds[box].size > seeds.size / 2:
        return None  # little to gain
    steps_to_exit = _steps_to_exit(seeds.shape, box)
    inside = seeds[box].copy()
    inside[(steps_to_exit == 0) & (inside == FREE)] = n
    *ends, left = _solve([_crop(weight, box, axis) for axis, weight in enumerate(weights)], inside, n + 1)
    v = ends[outer]
    u = sum(end for k, end in enumerate(ends) if k != outer)
    odds = (u + ROUNDING) / np.maximum(u + v - ROUNDING, ROUNDING)  # the worst that the error of u and v allows
    if ndimage.maximum(odds, steps_to_exit, np.arange(1, MARGIN + 1)).min() > DECIDED:
        return None
    probabilities = np.zeros((n, *seeds.shape))
    probabilities[outer] = 1.0
    probabilities[:, *box] = ends
    probabilities[outer][box] += left
    return probabilities


def _box_around_others(seeds: Seeds, n: int) -> tuple[int, tuple[slice, ...]]:
    """Returns the label whose other labels' seeds fit the smallest box, and that box, MARGIN + 1 pixels wider."""
    boxes = []
    for k in range(n):
        others = ((seeds != k) & (seeds != FREE)).any(axis=0)
        box = [slice(0, len(seeds))]
        for axis, size in enumerate(others.shape):
            where = np.flatnonzero(others.any(axis=1 - axis))
            box.append(slice(max(where[0] - MARGIN - 1, 0), min(where[-1] + MARGIN + 2, size)))
        boxes.append((k, tuple(box)))
    return min(boxes, key=lambda choice: seeds[choice[1]].size)


def _steps_to_exit(shape: tuple[int, ...], box: tuple[slice, ...]) -> np.ndarray:
    """Returns each pixel's chessboard distance to the box's sides; sides on the image's border do not count."""
    steps = np.full([side.stop - side.start for side in box], max(shape))
    for axis, (side, size) in enumerate(zip(box, shape, strict=True)):
        position = np.arange(side.stop - side.start)
        position = position.reshape([-1 if a == axis else 1 for a in range(len(shape))])
        if side.start > 0:
            steps = np.minimum(steps, position)
        if side.stop < size:
            steps = np.minimum(steps, np.flip(position))
    return steps


def _crop(weight: np.ndarray, box: tuple[slice, ...], axis: int) -> np.ndarray:
    """Returns the weights of the edges inside the box: along their own axis there is one fewer."""
    return weight[tuple(slice(side.start, side.stop - (a == axis)) for a, side in enumerate(box))]
