"""Which way the volumes of a data set are cut into slices for training, and what `check` says of it."""

from collections.abc import Iterator, Mapping

from scribbleseg.annotate.case_faults import DATA_SET, Fault
from scribbleseg.data.drawn_plane import drawn_plane, left_open
from scribbleseg.data.orientation import Plane, Turn, codes, common_orientation, plane, turn_to
from scribbleseg.types import Cases, DataError, Geometry


def common_of(cases: Cases, asked: Plane | None) -> tuple[str | None, Plane | None]:
    """The orientation of the slices that a training on these cases cuts, and the plane that most were drawn on in.

    Cases that cannot be read are left out; where strokes cannot be, nothing is known of their plane.

    Args:
        cases: those to train on.
        asked: the plane that a recipe asks for, whatever was drawn.
    """
    grids = {}
    for name in cases.names:
        try:
            grids[name] = cases.geometry(name)
        except DataError:
            continue
    try:
        drawn_in = None if asked else drawn_plane(cases.only(list(grids)), grids)
    except DataError:
        drawn_in = None
    return common_orientation(grids.values(), asked or drawn_in), drawn_in


def of_planes(
    geometries: Mapping[str, Geometry], usual: str | None, drawn_in: Plane | None, asked: Plane | None
) -> Iterator[Fault]:
    """Yields notes of cases that are turned before they are cut into slices, and of a plane that nothing tells.

    Args:
        geometries: the grids of all cases, by name.
        usual: the orientation of most slices; None where nothing is turned.
        drawn_in: the plane that most cases were drawn on in, where that decides.
        asked: the plane that a recipe asks for.
    """
    if usual is None:
        return
    of_any_plane = left_open(geometries)
    for name, geometry in geometries.items():
        turn, found = turn_to(usual, geometry, asked), codes(geometry)
        if turn == Turn():
            continue
        its = plane(found[turn.axes[0]])
        problem = f"stored as {found} (depth, height and width grow towards these), cut into slices as {usual}"
        if its == drawn_in and turn.axes[0] and name in of_any_plane:
            problem += f", for strokes were drawn in {its} slices"
        if its != plane(usual):
            problem += f"; its slices are {its}, theirs {plane(usual)}"
        yield Fault(name, None, "note", problem, "slices are turned, and label maps turned back")
    if asked is drawn_in is None and of_any_plane:
        problem = (
            "voxels are about as long along all axes, and strokes do not tell in which plane they were drawn: volumes "
            f"are cut into {plane(usual)} slices, as most are stored"
        )
        yield Fault(
            DATA_SET,
            None,
            "note",
            problem,
            "if they were drawn in another plane, name it: --set preprocess.plane=coronal",
        )
