"""The one-liner: ``import lazydeps.auto`` before the heavy imports does what `lazydeps.load()` does.

Nothing waits for the data set here; call `lazydeps.wait()` behind the imports if they are followed by work that
opens data files of packages.
"""

from __future__ import annotations

from ._runtime import load

load()
