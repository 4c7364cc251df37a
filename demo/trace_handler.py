"""What the demo's pack is recorded from: the handler itself, imported and invoked once.

`lazydeps pack --trace-script` runs this with the packed distributions on the path and nothing else, so the handler's
own folder and lazydeps (which does nothing there, as LAZYDEPS_PACK is not set) are added by hand.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path += [str(ROOT / "examples"), str(ROOT / "src")]

import lambda_handler

lambda_handler.handler({}, None)
