"""Run a Lambda handler while `recorder.py` records, as Lambda's runtime client would. A script that it executes.

Standard library only, and no more of it than a handler has anyway: what this file imports is not seen as imported by
the program.
"""

from __future__ import annotations

import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from importlib.machinery import ModuleSpec
    from typing import Any

SECONDS = 900.0
"""Lambda's longest timeout: what an invocation believes to have left."""


class Identity:
    """What `LambdaContext.identity` is without Cognito."""

    cognito_identity_id = None
    cognito_identity_pool_id = None


class Context:
    """The second argument of a handler, with the attributes of awslambdaric's ``LambdaContext``."""

    def __init__(self, number: int) -> None:
        environ = os.environ
        self._end = time.monotonic() + SECONDS
        self.aws_request_id = f"00000000-0000-4000-8000-{number:012d}"  # the same in every recording
        self.function_name = environ["AWS_LAMBDA_FUNCTION_NAME"]
        self.function_version = environ["AWS_LAMBDA_FUNCTION_VERSION"]
        self.memory_limit_in_mb = environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"]
        self.log_group_name = environ["AWS_LAMBDA_LOG_GROUP_NAME"]
        self.log_stream_name = environ["AWS_LAMBDA_LOG_STREAM_NAME"]
        self.invoked_function_arn = f"arn:aws:lambda:{environ['AWS_REGION']}:123456789012:function:{self.function_name}"
        self.tenant_id = None
        self.client_context = None
        self.identity = Identity()

    def get_remaining_time_in_millis(self) -> int:
        """Return the milliseconds that the invocation has left."""
        return max(0, int((self._end - time.monotonic()) * 1000))

    def log(self, message: object) -> None:
        """Print a line."""
        print(message)


class Beside:
    """Finds single modules where they are installed, without their neighbours."""

    def __init__(self, places: Mapping[str, Sequence[str]]) -> None:
        self._places = places

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Find one of the modules; what is inside a package is found by its path."""
        del target
        if path is not None or fullname not in self._places:
            return None
        from _frozen_importlib_external import spec_from_file_location  # no module that the program would not have

        file, *folders = self._places[fullname]
        return spec_from_file_location(fullname, file, submodule_search_locations=folders or None)

    def invalidate_caches(self) -> None:
        """Do nothing: the places do not change."""


def run(name: str, folder: str, events: Sequence[tuple[str, Any]]) -> dict[str, BaseException]:
    """Import a handler's module and call the handler with each event.

    Returns:
        What it raised, by the event's name: it may need what this machine cannot give it.

    Raises:
        BaseException: what the module raised while it was imported.
    """
    sys.path.insert(0, folder)
    os.chdir(folder)
    module, _, function = name.replace("/", ".").rpartition(".")
    __import__(module)
    handler = getattr(sys.modules[module], function)
    raised: dict[str, BaseException] = {}
    for number, (label, event) in enumerate(events):
        try:
            handler(event, Context(number))
        except (Exception, SystemExit) as error:
            raised[label] = error
    return raised
