"""How far long work has come is told on a terminal and in a log, and changes nothing of what is gone through."""

import io

import pytest
from rich.console import Console

from scribbleseg import progress
from scribbleseg.progress import MANY, track, within


@pytest.fixture
def shown(monkeypatch):
    """What is printed to a log, or to a terminal."""

    def to(terminal: bool) -> io.StringIO:
        console = Console(file=io.StringIO(), force_terminal=terminal, width=100)
        monkeypatch.setattr(progress, "get_console", lambda: console)
        return console.file

    return to


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("disable", [True, False])
def test_all_items_come_in_their_order_and_an_error_goes_through(shown, terminal, disable):
    said = shown(terminal)
    assert list(track(iter(range(5)), "Cases", 5, disable)) == [0, 1, 2, 3, 4]
    assert ("Cases" in said.getvalue()) == (not disable)

    def fails():
        yield 1
        raise ValueError("gone")

    with pytest.raises(ValueError, match="gone"):
        list(track(fails(), "Cases", 2, disable))


def test_a_log_has_a_line_now_and_then_with_the_time_that_is_left(shown, monkeypatch):
    said, now = shown(False), iter(range(0, 10_000, 25))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(now)))
    list(track(list("abcdefgh"), "Seed areas"))
    lines = said.getvalue().splitlines()
    assert lines[0] == "Seed areas: 2 of 8, 0:03:45 left"
    assert lines[-1].startswith("Seed areas: 8 in 0:")
    assert 2 <= len(lines) <= 4


@pytest.mark.parametrize("terminal", [True, False])
def test_large_volumes_alone_show_how_far_they_have_come(shown, terminal, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.0)
    for slices, told in ((MANY - 1, False), (MANY, True)):
        said = shown(terminal)
        assert list(within(range(3), 3, slices)) == [0, 1, 2]
        assert ("within the volume" in said.getvalue()) == told


def test_a_volume_has_its_bar_below_that_of_the_cases(shown):
    said = shown(True)
    assert [part for _ in track(range(2), "Cases") for part in within(range(2), 2, MANY)] == [0, 1, 0, 1]
    assert "within the volume" in said.getvalue()
