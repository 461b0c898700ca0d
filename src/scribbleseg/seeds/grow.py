"""Grows the seed areas of many volumes, in one process or several."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from itertools import starmap

import numpy as np

from scribbleseg.progress import track
from scribbleseg.types import Image, Labels
from scribbleseg.workers import Workers

Seeder = Callable[[Image, Labels, Sequence[float]], Labels]
Volume = tuple[Image, Labels, Sequence[float]]
"""Image `channel depth height width`, scribbles `depth height width`, spacing_mm `(depth, height, width)`."""


def grow(
    seeder: Seeder,
    volumes: Iterable[Volume],
    workers: int = 1,
    total: int | None = None,
    description: str = "Seed areas",
) -> Iterator[Labels]:
    """Grows the seed areas of many volumes, in their order, with a progress bar.

    Work is handed out by volume: slices of one volume are cheap, and share the volume's intensity scale. At most two
    volumes per worker are in memory, so that `volumes` may read them from disk one by one. A script that asks for more
    than one worker needs the usual `if __name__ == "__main__":`, as the workers do not fork (torch would not survive).

    Args:
        seeder: a RandomWalker, Strokes, GraphCut, or any other that can be pickled.
        volumes: read lazily, memory maps welcome.
        workers: processes; 1 works in this one.
        total: number of volumes, for the bar's estimate of the time left.
        description: text beside the bar.

    Yields:
        uint8 `depth height width`, one for each volume.

    Raises:
        DataError: a volume is bad, or a worker has died; the areas of all volumes before it have been yielded.
        ValueError: fewer than one worker.
    """
    if workers < 1:
        raise ValueError(f"workers: expected at least 1, got {workers}")
    # A generator expression would keep one volume while the next is read.
    grown = starmap(seeder, volumes) if workers == 1 else _in_processes(seeder, volumes, workers)
    yield from track(grown, description, total)


def _in_processes(seeder: Seeder, volumes: Iterable[Volume], workers: int) -> Iterator[Labels]:
    with Workers(workers, "forkserver") as pool:
        waiting: deque[Future[Labels]] = deque()
        for image, scribbles, spacing_mm in volumes:
            # `asarray` turns a memory map into what can be sent.
            waiting.append(pool.submit(seeder, np.asarray(image), np.asarray(scribbles), spacing_mm))
            if len(waiting) == 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
