"""Pipelines: whatever can be trained, behind the same verbs. `PIPELINES` is the registry."""

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lightning_fabric import Fabric

from scribbleseg import em, hierarchy
from scribbleseg.data.dimensions import Stacks
from scribbleseg.data.orientation import is_picture
from scribbleseg.duration import in_words, seconds
from scribbleseg.em import Recursion
from scribbleseg.files import atomically
from scribbleseg.lock import is_held, release
from scribbleseg.old_runs import is_old, renewed, renewed_data
from scribbleseg.plural import number_of
from scribbleseg.ranks import on_leader
from scribbleseg.recipe import Recipe
from scribbleseg.runs import Run, create_run, open_run
from scribbleseg.session import Session
from scribbleseg.settings import from_plain, to_plain
from scribbleseg.types import Case, DataError, Dataset, Labels, Parts, Probabilities


@runtime_checkable
class AnyRecipe(Protocol):
    """A recipe of any pipeline: a frozen dataclass whose `kind` names the pipeline."""

    @property
    def kind(self) -> str:
        """The name of the pipeline in `PIPELINES`."""

    @property
    def is_upper_bound(self) -> bool:
        """Whether it trains on full masks, as what others are compared with."""


@runtime_checkable
class AnySegmenter(Protocol):
    """One trained network, or several together, ready for new images."""

    @property
    def label_names(self) -> tuple[str, ...]:
        """The labels by value, background first."""

    @property
    def channels(self) -> int:
        """The number of channels of an image."""

    def segment(self, case: Case) -> Labels:
        """Labels on the case's native grid."""

    def segment_unmerged(self, case: Case) -> tuple[Labels, Labels]:
        """The same labels, and those of the last network before they were merged with any others."""

    def probabilities(self, case: Case) -> Probabilities:
        """Probabilities on the case's native grid. Raises DataError where there are none."""

    def parts(self, case: Case) -> Parts:
        """The same, a few slices at a time (`relabel.predict.Segmenter.parts`)."""

    def check_dropout(self) -> None:
        """Raises DataError where passes with dropout say nothing."""


@runtime_checkable
class Pipeline(Protocol):
    """What a module has to define to be a pipeline.

    Attributes:
        kind: its name; that of its recipes, too.
        recipe_type: the dataclass of its recipes.
        phases: names of the folders inside a run that hold the phases' own runs; "" is the run itself. What the first
            learns depends on the data alone.
    """

    kind: str
    recipe_type: type
    phases: tuple[str, ...]

    def fit(self, recipe: Any, dataset: Dataset) -> tuple[Any, Dataset]:
        """The recipe with what it leaves to the data, and the data set as the recipe sees it. Raises DataError."""

    def part(self, session: Any, phase: str) -> Session[Recipe]:
        """The session of one phase."""

    def train(self, session: Any) -> Iterator[Recursion]:
        """Train; yields after each M step."""

    def has_done(self, recipe: Any, run: Run) -> bool:
        """Whether all that a run of another recipe has done is what this one would have done."""

    def load(self, recipe: Any, run: Run, fabric: Fabric, recursion: int | None = None) -> AnySegmenter:
        """The trained networks of a run. Raises DataError where they have not finished."""


_MEMBERS: tuple[Pipeline, ...] = (em, hierarchy)
PIPELINES: dict[str, Pipeline] = {member.kind: member for member in _MEMBERS}


def begin(
    dataset: Dataset, out: str | Path, recipe: AnyRecipe, *, fabric: Fabric, seed: int = 0, resume: bool = False
) -> Session:
    """Fit a recipe to a data set and make the run folder, or with `resume` go on with the one that is there.

    There is no other way to a training, so that a recipe never trains on labels that it was not made for. The run is
    locked; the session as a context manager (`with`) gives the lock back at its end.

    Raises:
        DataError: for a recipe that does not fit the data, or a folder that holds something else or that another
            process works on.
    """
    pipeline, path = PIPELINES[recipe.kind], Path(out)
    if not 0 <= seed < 2**63:
        raise DataError(f"expected a random seed of 0 or more, below 2^63, got {seed}")
    fitted, seen = pipeline.fit(recipe, dataset)
    session: Session = Session(fitted, seen, Run(path), fabric, seed)
    data = {"folder": str(seen.root.resolve()), "format": seen.name, "options": seen.options}

    def create() -> None:
        for phase in ("", *(name for name in pipeline.phases if name)):
            part = pipeline.part(session, phase) if phase else session
            name = f"{path.name}/{phase}" if phase else path.name
            details = {"name": name, "seed": seed, "label_names": part.dataset.label_names, "data": data}

            def goes_on(run: Run, phase: str = phase, part: Session = part) -> bool:
                recipe_of(run)  # which names the file where it is damaged
                return (em.has_done if phase else pipeline.has_done)(part.recipe, run)

            create_run(part.run.path, to_plain(part.recipe), details, resume or bool(phase), goes_on)

    held = is_held(path)  # by a session of this process, which keeps it
    try:
        on_leader(create, fabric)
    except BaseException:
        if not held:
            release(path)
        raise
    return session


def start_from(session: Session, path: str | Path) -> None:
    """Let the first M step start from the last network of another run, in the place of random weights.

    The weights are copied into the run, which `resume` goes on with.

    Args:
        session: what `begin` gave.
        path: the folder of the other run, of the same network and labels.

    Raises:
        DataError: a run of another network or of other labels, one without a trained network, or a session that has
            started from something else already.
    """
    other, run = open_run(Path(path)), session.run
    recipe = recipe_of(other)
    if not isinstance(recipe, Recipe) or not isinstance(session.recipe, Recipe):
        raise DataError(f"{path}: expected runs of one network each, found two phases; a hierarchy starts anew")
    names = tuple(other.details["label_names"])
    if names != session.dataset.label_names:
        ours, theirs = ", ".join(session.dataset.label_names), ", ".join(names)
        raise DataError(f"{path}: expected a run of the labels {ours}, found {theirs}; give a run of these labels")
    if recipe.network != session.recipe.network:
        raise DataError(
            f"{path}: expected a run of the network {session.recipe.network}, found {recipe.network}; train with the "
            "--recipe and --set of that run"
        )
    if not other.recursions:
        raise DataError(f"{path}: expected a trained network, found none; finish it by `train --resume`")
    weights = other.network(other.recursions - 1)

    def copy() -> None:
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
        begun = run.recursions or run.checkpoint(0).exists()
        if run.details.get("start", "") == digest and run.start.exists():
            return
        if begun:
            raise DataError(f"{run.path}: expected a run that started from {path}, found another; give another --out")
        with atomically(run.start) as temporary:
            shutil.copyfile(weights, temporary)
        run.add(start=digest)

    on_leader(copy, session.fabric)


def train(session: Session) -> Iterator[Recursion]:
    """Train a session that `begin` made; yields after each M step. Raises DataError."""
    return PIPELINES[session.recipe.kind].train(session)


def first_phase(session: Session) -> Session[Recipe]:
    """The session of the phase that depends on the data alone."""
    pipeline = PIPELINES[session.recipe.kind]
    return pipeline.part(session, pipeline.phases[0])


def first_recipe(recipe: AnyRecipe) -> Recipe:
    """The recipe of the phase that depends on the data alone."""
    return recipe if isinstance(recipe, Recipe) else getattr(recipe, PIPELINES[recipe.kind].phases[0])


def recipe_of(run: Run) -> AnyRecipe:
    """The recipe that a run was trained by, also of a run that scribbleseg 0.1 made. Raises DataError."""
    kind = _plain(run)["kind"]
    if not isinstance(kind, str) or kind not in PIPELINES:
        raise DataError(f"{run.path}: expected a recipe of {' or '.join(PIPELINES)}, got {kind}; update scribbleseg")
    return _read(PIPELINES[kind].recipe_type, run)


def phase_recipe(run: Run) -> Recipe:
    """The recipe of one of the `phases` of a run. Raises DataError."""
    return _read(Recipe, run)


def data_of(run: Run) -> dict[str, Any]:
    """The "folder", "format" and "options" that open the data set of a run again as it was for training."""
    return renewed_data(run.details["data"]) if is_old(run.recipe) else run.details["data"]


def _read(kind: type, run: Run) -> Any:
    try:
        return from_plain(kind, _plain(run))
    except DataError as error:
        raise DataError(f"{run.path / 'recipe.json'}: {error}") from None


def _plain(run: Run) -> dict[str, Any]:
    return renewed(run.recipe) if is_old(run.recipe) else run.recipe


def phases(run: Run) -> dict[str, Run]:
    """The runs that hold networks, by phase: those inside a hierarchy's, or the run itself."""
    return {phase: open_run(run.path / phase) for phase in PIPELINES[recipe_of(run).kind].phases}


def load(run: Run, fabric: Fabric, recursion: int | None = None) -> AnySegmenter:
    """The network of a recursion of a run, the last finished one by default, or a hierarchy's two networks.

    Raises:
        DataError: if that has not finished.
    """
    recipe = recipe_of(run)
    return PIPELINES[recipe.kind].load(recipe, run, fabric, recursion)


def advice(session: Session) -> str:
    """Says whether the training cases are for 2-D or 3-D, and why; "" for single slices. Raises DataError."""
    return Stacks.of(session.dataset.train, first_phase(session).recipe.preprocess).advice


def plan(session: Session) -> str:
    """What a training will do with M steps that are not finished, and how long that takes here, to read before it.

    Reads one case, and times a few iterations of each network. Raises DataError for losses that do not fit the images.
    """
    pipeline = PIPELINES[session.recipe.kind]
    case = session.dataset.train[0]
    channels, in_mm = len(case.image), not is_picture(case.geometry)
    lines, total = [], 0.0
    for phase in pipeline.phases:
        one = pipeline.part(session, phase)
        steps = em.unfinished(one)
        if not steps:
            continue
        em.check_channels(one.recipe, channels)
        lengths = ", ".join(str(step.iterations) for step in steps)
        named, mm = f"{phase}: " if phase else "", one.recipe.preprocess.spacing_mm
        what = ("slices", "pixels") if one.recipe.depth is None else ("blocks", "voxels")
        shape = " x ".join(map(str, one.recipe.sides))
        of = f"of {steps[0].batch} {what[0]} of {shape} {what[1]}{f' of {mm} mm' if in_mm else ''}"
        lengths += " iteration" if lengths == "1" else " iterations"
        lines.append(f"{named}{number_of(len(steps), 'round')} of training ({lengths}) {of}")
        total += seconds(one, channels, steps)
    if not lines:
        return "nothing: all rounds of training are done."
    cases = number_of(len(session.dataset.train), "training case")
    return f"{'; '.join(lines)}; {cases}. Training takes about {in_words(total)} here."
