"""Makes the project archive of Zappa's `slim_handler`, as `zappa deploy` does. Run once, not in a start.

The current folder is the project: empty, since the handler is not what is measured. Prints the archive's name.
Arguments: a folder laid out like a virtual environment; the name of the Lambda runtime.
"""

import sys
from pathlib import Path

from zappa.core import Zappa  # type: ignore[import-not-found]

venv, runtime = sys.argv[1:]
zappa = Zappa(load_credentials=False, aws_region="us-east-1", runtime=runtime)
# Precompiled packages would be the same wheels from the index again: what is installed are manylinux wheels already.
print(
    zappa.create_lambda_zip(
        prefix="project",
        venv=Path(venv),
        use_precompiled_packages=False,
        archive_format="tarball",
        disable_progress=True,
    )
)
