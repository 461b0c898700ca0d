"""The command line: every verb is a thin layer over the functions that Python users call.

Each verb imports what it needs when it runs, so that --help is instant.
"""

from scribbleseg.cli import annotate, data, draw, exchange, measure, tables, train, use
from scribbleseg.cli.app import app

__all__ = ["annotate", "app", "data", "draw", "exchange", "measure", "tables", "train", "use"]

ORDER = (
    *("demo", "annotate", "check", "simulate", "convert"),
    *("seeds", "train", "predict", "suggest", "evaluate", "report"),
    *("recipes", "reproduce", "tune_crf"),
)
"""The verbs in the order in which people need them, which is that of --help."""

app.registered_commands.sort(key=lambda command: ORDER.index(command.callback.__name__ if command.callback else ""))
