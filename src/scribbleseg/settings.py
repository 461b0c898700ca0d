"""Recipes as plain data: to JSON and back, and with single fields changed; errors name the field as people write it."""

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from scribbleseg.files import is_text, parsed
from scribbleseg.types import DataError

Part = TypeVar("Part")

LEAST, MOST = 1e-15, 1e9
"""Sizes of numbers in recipes (ours): what is beyond them is a mistake, and would overflow somewhere."""

MOST_SHOWN = 100
"""Characters of a wrong value that an error shows."""


def to_plain(part: Any) -> dict[str, Any]:
    """A frozen dataclass, nested ones included, as plain data for JSON; NumPy's numbers become Python's."""
    return TypeAdapter(type(part)).dump_python(part, mode="json", fallback=_plain, warnings=False)


def from_plain(kind: type[Part], data: dict[str, Any]) -> Part:
    """The dataclass from plain data. Raises DataError naming the field, what was expected and what came."""
    try:
        part = TypeAdapter(kind).validate_python(data)
        for where, problem in _strange(data, to_plain(part)):
            raise DataError(f"recipe field {where}: {problem}")
        return part
    except ValidationError as error:
        tags = frozenset(_tags(kind))
        problems = error.errors()
        if missing := [_where(problem, tags) for problem in problems if problem["type"] == "missing"]:
            raise DataError(
                f"recipe fields {', '.join(missing)}: expected values, got none; "
                "set them, too, or start from a recipe that has them"
            ) from None
        raise DataError("; ".join(_explain(problem, tags) for problem in problems)) from None


def _plain(value: Any) -> Any:
    """What is no plain data but stands for some: a number of NumPy. Raises DataError for anything else."""
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return value.item()
    raise DataError(
        f"expected numbers, words or parts of a recipe, got {_short(value)}; see `scribbleseg recipes NAME`"
    )


def _strange(given: Any, taken: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Fields that no part has taken, and numbers that nobody can mean or that are not finite."""
    if isinstance(given, dict) and isinstance(taken, dict):
        for name, value in given.items():
            at = f"{where}.{name}" if where else str(name)
            if name not in taken:
                yield at, f"expected a field among {', '.join(taken)}, got this one; correct it"
            else:
                yield from _strange(value, taken[name], at)
    elif isinstance(given, list | tuple) and isinstance(taken, list):
        for n, (value, other) in enumerate(zip(given, taken, strict=False)):
            yield from _strange(value, other, f"{where}.{n}")
    elif isinstance(given, int | float) and given and not LEAST <= abs(given) <= MOST:
        yield where, f"expected a number of at least {LEAST:g} and at most {MOST:g} in size, or 0, got {_short(given)}"


def override(part: Part, settings: Sequence[str]) -> Part:
    """Apply `field=value` settings, such as `stages.batch=4` or `seeds.tau=0.9`; values are JSON or plain text.

    A list is changed in all its elements that have the field, or in one by its number: `stages.1.iterations=500`.

    Raises:
        DataError: for a field that there is not, or a value of the wrong type.
    """
    data, bare = to_plain(part), set[int]()
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals:
            raise DataError(f"--set {setting}: expected field=value, such as stages.batch=4")
        try:
            value = parsed(text)
        except ValueError:
            value = text
        if not _assign(data, path.split("."), value, bare):
            closest = get_close_matches(path, set(_paths(part)), n=3, cutoff=0.4)
            raise DataError(
                f"--set {setting}: expected a field of the recipe, got {path}; the closest are "
                f"{', '.join(closest) or 'none'}, and `scribbleseg recipes NAME` lists all"
            )
    return from_plain(type(part), data)


def _assign(node: Any, path: Sequence[str], value: Any, bare: set[int]) -> bool:
    """Set what a path leads to, in every element of a list that it does not number; whether it leads anywhere.

    A part that has nothing but its kind takes any field, for all of its own are to come; it is noted in `bare`.
    """
    name, *rest = path
    if isinstance(node, list):
        if not (name.isascii() and name.isdigit()):
            assigned = [_assign(each, path, value, bare) for each in node]  # all of them, not only until one is
            return any(assigned)
        if int(name) >= len(node):
            return False
        if rest:
            return _assign(node[int(name)], rest, value, bare)
        node[int(name)] = value
        return True
    if not isinstance(node, dict):
        return False
    if set(node) == {"kind"}:
        bare.add(id(node))
    if name not in node and id(node) not in bare:
        return False
    if rest:
        return name in node and _assign(node[name], rest, value, bare)
    if name == "kind" and node.get("kind") != value:
        node.clear()  # another kind of part has other fields, and its own defaults
    node[name] = value
    return True


def _where(problem: Any, tags: frozenset[str]) -> str:
    """The field's path as `--set` takes it: without the kind that a union is told apart by."""
    return ".".join(str(part) for part in problem["loc"] if part not in tags)


def _explain(problem: Any, tags: frozenset[str]) -> str:
    where = _where(problem, tags)
    if problem["type"] == "value_error":  # our own: it says what it got
        return f"recipe field {where}: {problem['ctx']['error']}"
    if problem["type"] == "union_tag_invalid":
        expected = problem["ctx"]["expected_tags"].replace("'", "")
        return f"recipe field {where}.kind: expected one of {expected}, got {_short(problem['ctx']['tag'])}"
    if problem["type"].endswith("_parsing"):
        return f"recipe field {where}: expected a number, got {_short(problem['input'])}"
    return f"recipe field {where}: {problem['msg'].lower()}, got {_short(problem['input'])}"


def _short(value: Any) -> str:
    """A value as Python writes it, the beginning only where it is long."""
    text = ascii(value) if isinstance(value, str) and not is_text(value) else repr(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


def _tags(kind: Any) -> Iterator[str]:
    """The `kind` of every part that a recipe chooses among."""
    if not is_dataclass(kind):
        for argument in get_args(kind):
            yield from _tags(argument)
        return
    for field in fields(kind):
        if field.name == "kind":
            yield str(field.default)
    for annotation in get_type_hints(kind).values():
        yield from _tags(annotation)


def _paths(part: Any, prefix: str = "") -> Iterator[str]:
    for field in fields(part):
        value = getattr(part, field.name)
        inner = [each for each in value if is_dataclass(each)] if isinstance(value, tuple) else [value]
        for each in inner:
            if is_dataclass(each):
                yield from _paths(each, f"{prefix}{field.name}.")
            else:
                yield prefix + field.name
