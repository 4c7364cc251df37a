"""A Lambda handler to record: where its module lies, its events, and the environment that a function has.

Nothing is run here. `recorder_handler.py` does that, in the target's interpreter.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lazydeps.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

BUNDLED = ("boto3", "botocore", "s3transfer", "jmespath", "urllib3", "dateutil", "six")
"""What Lambda's Python runtimes bring along. A handler may import it without packing it, so the recording offers it,
behind the packed tree and from wherever the command itself is installed; all of it is pure Python."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OURS = ("LAZYDEPS_", "PYTHON")


@dataclass(frozen=True, slots=True)
class Handler:
    """A handler that was found."""

    name: str
    """``MODULE.FUNCTION``, as in a function's configuration."""
    folder: Path
    """What Lambda would have as the task root."""
    events: tuple[tuple[str, Any], ...] = ()
    """The name and the content of each event; none: the module is imported and nothing is called."""

    @property
    def how(self) -> str:
        """What the trace's ``how`` says."""
        events = ", ".join(name for name, _ in self.events)
        return f"handler {self.name}" + (f" with {events}" if events else "")

    @property
    def environ(self) -> dict[str, str]:
        """The variables that Lambda sets and code reads while it is imported; no credentials, and no pack."""
        return {
            # https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_EXECUTION_ENV": "AWS_Lambda_python",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1769",
            "AWS_LAMBDA_FUNCTION_NAME": "traced",
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/traced",
            "AWS_LAMBDA_LOG_STREAM_NAME": "traced",
            "AWS_REGION": "us-east-1",
            "LAMBDA_TASK_ROOT": str(self.folder),
            "TZ": ":UTC",
            "_HANDLER": self.name,
        }


def find_handler(name: str, folders: Sequence[Path], events: Sequence[Path]) -> Handler:
    """Find a handler as Lambda does: ``MODULE.FUNCTION``, the module by slashes or dots below the task root.

    Args:
        name: as a person gave it.
        folders: where the task root may be, the first one that has the module wins.
        events: JSON files.

    Raises:
        ConfigError: the name is none, no folder has the module, or an event is no JSON.
    """
    module, _, function = name.rpartition(".")
    parts = module.replace("/", ".").split(".")
    if not (function.isidentifier() and all(part.isidentifier() for part in parts)):
        raise ConfigError(
            f"--trace-handler wants MODULE.FUNCTION, as in the function's configuration, such as app.handler; "
            f"found {name!r}."
        )
    for folder in folders:
        base = folder.joinpath(*parts)
        if base.with_name(f"{base.name}.py").is_file() or (base / "__init__.py").is_file():
            return Handler(name, folder.resolve(), tuple((event.name, _read_event(event)) for event in events))
    places = " or ".join(map(str, dict.fromkeys(folder.resolve() for folder in folders)))
    raise ConfigError(
        f"--trace-handler {name}: there is no {'/'.join(parts)}.py in {places}. Run the command in the function's "
        "folder, or name that folder with --project."
    )


def _read_event(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"the event {path} could not be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"the event {path} is no JSON: {error}.") from error


def parse_environ(settings: Sequence[str], environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables that ``--trace-env NAME=VALUE`` and ``--trace-env NAME`` pass to what is recorded.

    Raises:
        ConfigError: a name that is none or that would steer the recording itself, or a variable that is not set here.
    """
    found: dict[str, str] = {}
    for setting in settings:
        name, given, value = setting.partition("=")
        if not _NAME.fullmatch(name):
            raise ConfigError(f"--trace-env wants NAME=VALUE or NAME; found {setting!r:.60}.")
        if name.startswith(_OURS):
            raise ConfigError(
                f"--trace-env cannot set {name}: {' and '.join(f'{one}*' for one in _OURS)} steer the recording."
            )
        if not given:
            if name not in environ:
                raise ConfigError(f"--trace-env {name}: it is not set here. Set it, or write --trace-env {name}=VALUE.")
            value = environ[name]
        found[name] = value
    return found


def beside(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return where modules lie that the recording offers besides the tree: name to file, and folder if a package."""
    found: dict[str, tuple[str, ...]] = {}
    for name in names:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin and spec.origin.endswith(".py"):
            found[name] = (spec.origin, *(spec.submodule_search_locations or ()))
    return found
