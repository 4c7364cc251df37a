"""What is imported: the works, their requirements pinned with everything that those bring along.

The pins are of versions that have wheels for every Python from 3.11 on, so that any of them can be measured.
"""

from __future__ import annotations

from benchmarks.model import Work

NUMPY = "numpy==2.4.6"
PANDAS = ("pandas==3.1.1", "python-dateutil==4.0.0", "tzdata==2026.6")

SCIENCE = Work(
    name="science",
    requirements=(
        NUMPY,
        *PANDAS,
        "scipy==1.17.1",
        "matplotlib==3.11.2",
        "contourpy==1.3.3",
        "cycler==0.12.1",
        "fonttools==4.68.0",
        "kiwisolver==1.5.1",
        "packaging==26.3",
        "pillow==13.0.0",
        "pyparsing==3.3.3",
        "openpyxl==3.1.5",
        "et-xmlfile==2.0.0",
    ),
    statements="import numpy, pandas, scipy.stats, matplotlib.pyplot, openpyxl",
)
FRAMES = Work(
    name="frames",
    requirements=(NUMPY, *PANDAS, "pyarrow==26.0.1"),
    statements="import numpy, pandas, pyarrow",
)
SMALL = Work(
    name="small",
    requirements=(
        "requests==2.34.2",
        "certifi==2026.10.18",
        "charset-normalizer==3.5.2",
        "idna==3.20",
        "urllib3==2.8.0",
        "feedparser==6.0.14",
        "feedparser-sgmllib==2.1.0",
        "python-dateutil==4.0.0",
        "tzdata==2026.6",
    ),
    statements="import requests, feedparser, dateutil.parser",
)
ML = Work(
    name="ml",
    requirements=(
        NUMPY,
        "scipy==1.17.1",
        "scikit-learn==1.9.1",
        "cloudpickle==3.1.2",
        "joblib==1.6.0",
        "narwhals==2.29.0",
        "threadpoolctl==3.8.0",
    ),
    statements="import sklearn.linear_model, sklearn.ensemble, sklearn.pipeline",
)
TORCH = Work(
    name="torch",
    requirements=(
        "torch==2.13.0",
        "filelock==4.2.11",
        "fsspec==2026.9.0",
        "jinja2==3.1.6",
        "markupsafe==3.0.4",
        "mpmath==1.3.0",
        "networkx==3.6.1",
        "setuptools==84.2.1",
        "sympy==1.14.0",
        "typing-extensions==4.16.0",
    ),
    statements="import torch",
)
"""The CPU build, which the usual index has not under this name: pip's configuration must lead to it."""

WORKS = {work.name: work for work in (SCIENCE, FRAMES, SMALL, ML, TORCH)}
DEFAULT_WORKS = ("science", "frames", "small", "ml")
