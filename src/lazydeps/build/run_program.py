"""What `lazydeps run` starts in a fresh interpreter: load the packs, then be the program.

Imports nothing but the runtime, so that the program finds the interpreter as it would find it in a function.
"""

import os
import sys

import lazydeps


def main(report: str, kind: str, program: str, *args: str) -> None:
    """Load the packs that ``LAZYDEPS_PACK`` names and run the program as ``__main__``."""
    try:
        # A program may open a package's data file right away, without the imports that a trace foresaw. So the
        # packs are in place before it begins; a handler overlaps the two with `with lazydeps.load():`.
        lazydeps.load().wait()
    except lazydeps.LazydepsError as error:
        print(f"lazydeps: {type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)
    try:
        import runpy

        # The name without `-m`'s folder: `python SCRIPT` puts the script's folder first, `python -c` the current one.
        sys.path[0] = os.path.dirname(os.path.abspath(program)) if kind == "script" else ""
        sys.argv = ["-c" if kind == "code" else program, *args]
        if kind == "script":
            runpy.run_path(program, run_name="__main__")
        elif kind == "module":
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        else:
            import types

            main_module = types.ModuleType("__main__")
            sys.modules["__main__"] = main_module
            exec(compile(program, "<string>", "exec"), main_module.__dict__)  # noqa: S102 - it is the user's own
    finally:
        import json

        with open(report, "w", encoding="utf-8") as file:
            json.dump(lazydeps.report().as_dict(), file)


if __name__ == "__main__":
    main(*sys.argv[1:])
