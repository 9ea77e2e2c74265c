"""Entry point: runs a command and turns an error into one line and an exit status."""

import sys
import traceback
from collections.abc import Sequence

_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exit with status 2 on a user's mistake, 130 when interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    from dynamics.cli.app import app
    from dynamics.errors import DynamicsError

    try:
        app([argument for argument in arguments if argument != "--debug"], prog_name="dynamics")
    except (DynamicsError, OSError) as error:
        if debug:
            raise
        print(f"dynamics: {_reason(error)}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as end:
        if end.code == _INTERRUPTED:  # typer's exit status of a KeyboardInterrupt
            if debug:
                traceback.print_exc()
            print("dynamics: interrupted; run the same command again to resume", file=sys.stderr)
        raise


def _reason(error: Exception) -> str:
    """Return the message of an error; of the system's errors the file and the reason, no number."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


if __name__ == "__main__":
    main()
