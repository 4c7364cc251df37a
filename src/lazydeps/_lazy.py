"""The stand-in that `lazydeps.lazy` returns: a module that is imported when it is first used."""

from __future__ import annotations

from types import ModuleType

from .errors import PackedModuleNotFoundError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class LazyModule(ModuleType):
    """A module's name, and the module from the first use of an attribute on."""

    def __getattr__(self, name: str) -> Any:
        # Called for what this object does not have itself. Everything the module has is copied over below.
        module = self._import()
        return getattr(module, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._import(), name, value)

    def __dir__(self) -> list[str]:
        return dir(self._import())

    def __repr__(self) -> str:
        return f"<lazy module {self.__name__!r}>"

    def _import(self) -> ModuleType:
        from importlib import import_module

        name: str = ModuleType.__getattribute__(self, "__name__")
        try:
            return import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
                raise  # something that the module itself imports is missing
            from ._runtime import loaded_refs

            packs = ", ".join(ref.partition("#")[0] for ref in loaded_refs()) or "no pack (none is loaded)"
            raise PackedModuleNotFoundError(
                f"No module named {name!r}: looked in {packs} and on sys.path. "
                "Add its distribution to the pack's requirements and build it again.",
                name=error.name,
            ) from error
