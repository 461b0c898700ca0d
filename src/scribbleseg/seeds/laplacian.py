"""Solves a graph's Dirichlet problem: exactly by one sparse factorisation, or by multigrid conjugate gradients.

Given a weighted graph in which some nodes are seeds, find for every other node and every label the probability that a
random walker from that node reaches a seed of that label first. With `W` the weights between nodes without a seed,
`S[i, k]` the weight of node i's edges to the seeds of label k, and `D` the sum of all weights at each node, that is

    (D - W) X = S        (Grady 2006, section III, DOI 10.1109/TPAMI.2006.233)

`D - W` is symmetric positive definite, and the rows of X lie in [0, 1] and sum to 1.
"""

import logging
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float64, Int
from scipy.sparse import coo_array, csr_array, diags_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import splu

logger = logging.getLogger(__name__)

COARSEST = 20_000
"""Nodes at which multigrid stops coarsening and factorises; ours: below it, a factorisation costs under 0.1 s."""

DAMPING = 0.7
"""Damping of the Jacobi smoother. Ours: any value in (0, 1) keeps the preconditioner positive definite."""

MAX_ITERATIONS = 200
"""Iterations of conjugate gradients; ours: 15 to 50 are usual, and a problem that needs more is better factorised."""

Nodes = Int[np.ndarray, " node"]
Columns = Float64[np.ndarray, "node label"]


@dataclass(frozen=True)
class Dirichlet:
    """The problem `(D - W) X = S`; every connected part of the graph must touch a seed.

    Args:
        between: `W`, symmetric, zero diagonal, float64 weights > 0 between the n nodes without a seed.
        to_seeds: `S`, float64 `node label`, weights >= 0.
    """

    between: csr_array
    to_seeds: Columns

    def matrix(self) -> csr_array:
        """Returns `D - W`. Its diagonal is a sum of positive terms, so that 1e-10 next to 1 keeps all its digits."""
        degree = self.between.sum(axis=1) + self.to_seeds.sum(axis=1)
        return (diags_array(degree) - self.between).tocsr()


def _factorise(matrix: csr_array, ordered: bool = False):  # type: ignore[no-untyped-def]  # SuperLU is private to scipy
    """Factorises a symmetric M-matrix (sparse LU). Without pivoting, which it does not need, there is little fill.

    `ordered` says that the rows are in a good order already; else an approximate minimum degree chooses one.
    `panel_size=1` (ours) takes two thirds of the time of SuperLU's default on the small supernodes of a pixel grid.
    """
    return splu(
        matrix.T,  # compressed by columns, and the same
        permc_spec="NATURAL" if ordered else "MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,
        panel_size=1,
        options={"SymmetricMode": True},
    )


def _complete(columns: Float64[np.ndarray, "node fewer"]) -> Float64[np.ndarray, "node label"]:
    """Appends the last label, as what is missing to 1, and removes rounding: in [0, 1], rows sum to 1."""
    columns = np.clip(columns, 0.0, 1.0)
    rest = np.clip(1.0 - columns.sum(axis=1, keepdims=True), 0.0, 1.0)
    columns = np.concatenate([columns, rest], axis=1)
    return columns / columns.sum(axis=1, keepdims=True)


@lru_cache(maxsize=4)
def elimination_places(side: int) -> Int[np.ndarray, "side side"]:
    """Returns each pixel's place in an order of elimination that keeps the factors of a 4-connected grid small.

    Every other pixel comes first, at place -1. What is left is a grid along the diagonals, 8-connected, and is put in
    order by nested dissection (George 1973, DOI 10.1137/0710032): two halves, then the line between them, and each half
    likewise. Half the time of a minimum degree on 256 x 256 pixels, and any rectangle may use the corner of a larger
    square (docs/LOG.md).
    """
    rows, columns = np.indices((side, side))
    places = np.full((side, side), -1, dtype=np.int64)
    kept = (rows + columns) % 2 == 0
    at = np.stack([(rows + columns)[kept] // 2, (rows - columns)[kept] // 2])
    low, high = (np.repeat(bound[:, None], at.shape[1], axis=1) for bound in (at.min(axis=1), at.max(axis=1)))
    found, node = np.zeros(at.shape[1], dtype=np.int64), np.arange(at.shape[1])
    while (high - low).max() > 1:
        along = np.argmax(high - low, axis=0), node
        middle = (low[along] + high[along]) // 2
        before, after = at[along] < middle, at[along] > middle
        found = 4 * found + np.where(before, 0, np.where(after, 1, 2))
        high[along] = np.where(before, middle - 1, np.where(after, high[along], middle))
        low[along] = np.where(after, middle + 1, np.where(before, low[along], middle))
    places[kept] = found
    places.flags.writeable = False
    return places


def solve_directly(problem: Dirichlet, ordered: bool = False) -> Columns:
    """Returns every label's probabilities from one factorisation. Right for pictures; in 3-D it takes too much memory.

    Args:
        problem: the problem to solve.
        ordered: whether its nodes are in a good order of elimination; else a minimum degree chooses one.

    Returns:
        float64 `node label`, in [0, 1], rows sum to 1.
    """
    # As rows sum to 1, one label fewer than there are needs solving for.
    return _complete(_factorise(problem.matrix(), ordered).solve(problem.to_seeds[:, :-1]))


def _merge_heaviest(between: csr_array, rng: np.random.Generator) -> Nodes:
    """Merges each node with the neighbour it is most strongly tied to: one step of Boruvka's spanning tree.

    Probabilities hardly differ within such groups however large the contrast of the weights is, which is what makes
    piecewise constants a good coarse space for image graphs, the idea of combinatorial multigrid (Koutis, Miller and
    Tolliver 2011, Comput. Vis. Image Underst.). Up to 10 % of jitter breaks ties (ours): else a flat region is one
    group.
    """
    n = between.shape[0]
    row = np.repeat(np.arange(n, dtype=np.int32), np.diff(between.indptr))
    jitter = rng.random(n)
    weight = between.data * (1.0 + 0.1 * jitter[row] * jitter[between.indices])
    tied = np.flatnonzero(np.diff(between.indptr))
    heaviest = np.zeros(n)
    heaviest[tied] = np.maximum.reduceat(weight, between.indptr[tied])
    chosen = weight == heaviest[row]
    links = coo_array((np.ones(chosen.sum(), np.int8), (row[chosen], between.indices[chosen])), shape=(n, n))
    return connected_components(links, directed=False)[1]


def _merged(problem: Dirichlet, parent: Nodes) -> tuple[Dirichlet, csr_array]:
    """Returns the problem on merged nodes (parallel edges add up, edges in a group vanish) and the matrix of sums."""
    n, m = len(parent), int(parent.max()) + 1
    to_parents = coo_array((np.ones(n), (parent, np.arange(n))), shape=(m, n)).tocsr()
    between = to_parents @ problem.between @ to_parents.T.tocsr()
    between.setdiag(0.0)
    between.eliminate_zeros()
    return Dirichlet(between, to_parents @ problem.to_seeds), to_parents


class _Multigrid:
    """Approximates `(D - W)^-1` by a symmetric V-cycle: Jacobi smoothing, then the same on the graph of merged nodes.

    `coarser` is the V-cycle of the merged graph; a graph of at most COARSEST nodes is factorised instead.
    """

    def __init__(self, problem: Dirichlet, rng: np.random.Generator) -> None:
        self.matrix, self.target = problem.matrix(), problem.to_seeds[:, :-1]
        self.coarser: _Multigrid | None = None
        if len(self.target) <= COARSEST or not problem.between.nnz:
            self.factors = _factorise(self.matrix)
            return
        self.parent = _merge_heaviest(problem.between, rng)
        merged, self.to_parents = _merged(problem, self.parent)
        self.coarser = _Multigrid(merged, rng)
        self.smoother = DAMPING / self.matrix.diagonal()[:, None]

    def __call__(self, residual: Columns) -> Columns:
        """Returns the result of one V-cycle for `(D - W) x = residual`, from 0."""
        if self.coarser is None:
            return self.factors.solve(residual)
        x = self.smoother * residual
        left = residual - self.matrix @ x
        x += self.prolong(self.coarser(self.to_parents @ left))
        np.subtract(residual, self.matrix @ x, out=left)
        left *= self.smoother
        x += left
        return x

    def prolong(self, x: Float64[np.ndarray, "merged label"]) -> Columns:
        """Returns the merged graph's values on this one."""
        return x.take(self.parent, axis=0)


def _dot(a: Columns, b: Columns) -> Float64[np.ndarray, " label"]:
    return np.einsum("nl,nl->l", a, b)


def _ratio(a: Float64[np.ndarray, " label"], b: Float64[np.ndarray, " label"]) -> Float64[np.ndarray, " label"]:
    """Returns `a / b`, and 0 where b is not positive: that label is solved already."""
    return np.divide(a, b, out=np.zeros_like(a), where=b > 0)


def _conjugate_gradients(grid: _Multigrid, tolerance: float) -> Columns:
    """Solves all labels at once by preconditioned conjugate gradients, starting from the merged graph's solution."""
    if grid.coarser is None:
        return grid.factors.solve(grid.target)
    x = grid.prolong(_conjugate_gradients(grid.coarser, tolerance))
    residual = grid.target - grid.matrix @ x
    correction = grid(residual)
    direction = correction.copy()
    energy = _dot(residual, correction)
    for _ in range(MAX_ITERATIONS):
        if max(correction.max(), -correction.min()) <= tolerance:
            break
        image = grid.matrix @ direction
        step = _ratio(energy, _dot(direction, image))
        x += step * direction
        image *= step
        residual -= image
        correction = grid(residual)
        before, energy = energy, _dot(residual, correction)
        direction *= _ratio(energy, before)
        direction += correction
    return x


def solve_iteratively(problem: Dirichlet, tolerance: float) -> Columns:
    """Returns every label's probabilities by multigrid conjugate gradients, or directly where those do not converge.

    A small residual says little here: weights span ten orders of magnitude, and a group of nodes behind a weight of w
    turns a residual of r into an error of r / w. So the criterion is on the preconditioned residual, which estimates
    the error itself, and it is checked again on the true residual of the result. Starting from the merged graph's
    solution (nested iteration) makes the mean error ten times smaller at the same cost.

    Args:
        problem: the problem to solve.
        tolerance: largest preconditioned residual anywhere, in units of probability.

    Returns:
        float64 `node label`, in [0, 1], rows sum to 1.
    """
    grid = _Multigrid(problem, np.random.default_rng(0))
    x = _conjugate_gradients(grid, tolerance)
    left = np.abs(grid(grid.target - grid.matrix @ x)).max()
    if not left <= 2.0 * tolerance:  # also true of NaN
        logger.warning("conjugate gradients left an error of about %.1e > %.1e; factorising instead", left, tolerance)
        return solve_directly(problem)
    return _complete(x)
