"""The program `scribbleseg`: Ctrl-C ends it in one line also while its parts are being imported."""

import signal
import sys


def main() -> None:
    """Run the command line."""
    try:
        from scribbleseg.cli import app

        app()
    except KeyboardInterrupt:
        sys.stderr.write("Stopped.\n")
        sys.exit(130)
    except SystemExit as end:
        # Typer ends without a word where Ctrl-C came before the verb began.
        if isinstance(getattr(end.__context__, "__cause__", None), KeyboardInterrupt):
            sys.stderr.write("Stopped.\n")
        raise
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # while Python ends, it would be a traceback


if __name__ == "__main__":
    main()
