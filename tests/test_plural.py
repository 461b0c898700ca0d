"""Numbers of things in sentences."""

import pytest

from scribbleseg.plural import number_of


@pytest.mark.parametrize(("number", "said"), [(0, "0 cases"), (1, "1 case"), (2, "2 cases")])
def test_one_thing_is_singular(number, said):
    assert number_of(number, "case") == said
