"""``python -m lazydeps`` and the ``lazydeps`` command: hands over to the build half, or says how to install it."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line. Returns the exit code: 0, 1 failure, 2 usage, 130 interrupted."""
    try:
        from lazydeps.build.cli import run_cli
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "lazydeps":
            raise
        print(
            f"lazydeps: the command needs {error.name}, which is not installed. Run: pip install 'lazydeps[build]'",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:  # Ctrl-C before there is anything to clean up
        print("lazydeps: Interrupted", file=sys.stderr)
        return 130
    return run_cli(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
