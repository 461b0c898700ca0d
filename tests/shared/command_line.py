"""The command line, as tests give commands to it."""

from typer.testing import CliRunner

from scribbleseg.cli import app


def call(*words, code=0) -> str:
    """What a command says, in one line; asserts that it ends with that exit code."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, result.output + repr(result.exception)
    return " ".join(result.output.split())
