"""Numbers of things in sentences: "1 case", "3 cases"."""


def number_of(number: int, thing: str) -> str:
    """The number and the thing: in the plural, by an s, unless it is one."""
    return f"{number} {thing}{'' if number == 1 else 's'}"
