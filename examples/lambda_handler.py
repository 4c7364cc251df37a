"""A Lambda function with 290 MB of dependencies in a few kilobytes of code.

Deploy this file with lazydeps in the package, and name the pack in the function's configuration:
LAZYDEPS_PACK=s3://BUCKET/PREFIX/….tar.zst#root=sha256:…
Where LAZYDEPS_PACK is not set, the imports are ordinary ones, so the same file runs on a laptop.
"""

from __future__ import annotations

import io
from typing import Any

import lazydeps

with lazydeps.load():  # returns at once; each import below waits for its own bytes only
    import matplotlib as mpl
    import matplotlib.pyplot as plt
    import numpy as np
    import openpyxl
    import pandas as pd
    import scipy
    import scipy.stats

_cold = True


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Fit a line through noisy points; draw them; put a summary into a workbook.

    Args:
        event: ``points``, how many (default 200); ``report``, true to get the start's report too.
        context: unused.
    """
    global _cold
    cold, _cold = _cold, False

    x = np.linspace(0, 10, int(event.get("points", 200)))
    frame = pd.DataFrame({"x": x, "y": 3 * x + np.random.default_rng(7).normal(size=x.size)})
    line = scipy.stats.linregress(frame.x, frame.y)

    figure, axes = plt.subplots()
    axes.plot(frame.x, frame.y, ".", frame.x, line.intercept + line.slope * frame.x, "-")
    png = io.BytesIO()
    figure.savefig(png, format="png")
    plt.close(figure)

    xlsx = io.BytesIO()
    frame.describe().to_excel(xlsx)  # pandas writes it with openpyxl

    response = {
        "cold": cold,
        "slope": round(float(line.slope), 3),
        "png_bytes": png.tell(),
        "xlsx_bytes": xlsx.tell(),
        "versions": {module.__name__: module.__version__ for module in (np, pd, scipy, mpl, openpyxl)},
    }
    if event.get("report"):
        response["report"] = lazydeps.report().as_dict()
    return response
