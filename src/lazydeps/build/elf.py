"""What ELF files say about themselves: the libraries they need and the symbols they export.

Answers from the files of one tree only; whatever the system's own loader would find elsewhere is not ours to pack.
"""

from __future__ import annotations

import hashlib
import posixpath
from dataclasses import dataclass
from typing import TYPE_CHECKING

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection
from elftools.elf.hash import GNUHashSection
from elftools.elf.sections import SymbolTableSection

from lazydeps.errors import LazydepsError

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

_TAGS = {"DT_NEEDED": "needed", "DT_SONAME": "soname", "DT_RUNPATH": "runpath", "DT_RPATH": "rpath"}
"""Dynamic tags, and the attributes under which pyelftools gives the strings that they point to."""
_SYMBOL_SECTIONS = ("SHT_DYNSYM", "SHT_HASH", "SHT_GNU_HASH", "SHT_GNU_versym", "SHT_GNU_verneed", "SHT_GNU_verdef")


@dataclass(frozen=True, slots=True)
class Dynamic:
    """The part of an ELF file's dynamic section that decides what is loaded with it."""

    needed: tuple[str, ...] = ()
    soname: str = ""
    search: tuple[str, ...] = ()
    """Entries of RUNPATH, or of RPATH where there is no RUNPATH, as they stand in the file."""


class ElfTree:
    """The ELF files of one tree, each read at most once.

    Args:
        root: the folder.
        files: its files, as posix paths relative to ``root``.
    """

    def __init__(self, root: Path, files: Collection[str]) -> None:
        self._root = root
        self._files = frozenset(files)
        self._dynamic: dict[str, Dynamic] = {}
        self._by_name: dict[str, str | None] | None = None

    def needed_closure(self, path: str) -> list[str]:
        """Return the files of the tree that the loader maps before ``path``, each after what it needs itself."""
        order: list[str] = []
        self._visit(path, order, {path})
        return order

    def exports(self, path: str, symbol: str) -> bool:
        """Tell whether an ELF file defines a dynamic symbol."""
        try:
            with (self._root / path).open("rb") as stream:
                for section in ELFFile(stream).iter_sections():
                    if isinstance(section, GNUHashSection):
                        return section.get_symbol(symbol) is not None
                    if isinstance(section, SymbolTableSection) and section.name == ".dynsym":
                        found = section.get_symbol_by_name(symbol) or ()
                        if any(entry["st_shndx"] != "SHN_UNDEF" for entry in found):
                            return True
        except (ELFError, OSError):
            pass
        return False

    def required_glibc(self) -> str:
        """Return the newest version of glibc that a shared object of the tree asks for; "" if none asks."""
        newest: tuple[int, ...] = ()
        for path in self._files:
            if is_shared_object(posixpath.basename(path)):
                newest = max(newest, _required_glibc(self._root / path))
        return ".".join(map(str, newest))

    def has_machine_code(self) -> bool:
        """Tell whether any shared object of the tree is an ELF file."""
        return any(
            is_shared_object(posixpath.basename(path)) and self.dynamic(path) != Dynamic() for path in self._files
        )

    def dynamic(self, path: str) -> Dynamic:
        """Return what a file's dynamic section says; an empty record for what is no dynamic ELF file."""
        known = self._dynamic.get(path)
        if known is None:
            known = self._dynamic[path] = _read(self._root / path)
        return known

    def _visit(self, path: str, order: list[str], seen: set[str]) -> None:
        # Depth-first, so that a library stands after what it needs. `seen` also ends cycles, which ELF allows.
        facts = self.dynamic(path)
        for name in facts.needed:
            found = self._resolve(name, path, facts)
            if found is not None and found not in seen:
                seen.add(found)
                self._visit(found, order, seen)
                order.append(found)

    def _resolve(self, name: str, path: str, facts: Dynamic) -> str | None:
        origin = posixpath.dirname(path)
        for entry in facts.search:
            expanded = entry.replace("${ORIGIN}", "$ORIGIN")
            if not expanded.startswith("$ORIGIN"):
                continue  # an absolute folder of the machine that built it
            candidate = posixpath.normpath(posixpath.join(origin, expanded[len("$ORIGIN") :].lstrip("/"), name))
            if candidate in self._files:
                return candidate
        # A library that is already mapped answers for its SONAME wherever it lies: packages that preload their
        # libraries with ctypes, or leave them to another package, rely on that.
        return self._names().get(name)

    def _names(self) -> dict[str, str | None]:
        """Map SONAMEs and file names of shared libraries to paths; None where several files carry one name."""
        if self._by_name is None:
            self._by_name = {}
            for path in sorted(self._files):
                base = posixpath.basename(path)
                if not is_shared_object(base):
                    continue
                # Extension modules are never needed by SONAME, and there are hundreds: only their file names count.
                soname = "" if ".cpython-" in base or ".abi3." in base else self.dynamic(path).soname
                for name in {base, soname} - {""}:
                    self._by_name[name] = path if name not in self._by_name else None
        return self._by_name


def interface(path: Path) -> tuple[Dynamic, dict[str, str]]:
    """Return all that a loader and other files see of a shared object, to compare it with another form of itself.

    Returns:
        Its dynamic section, and by name the digest of each section about dynamic symbols, their names and versions:
        those that it exports and those that it needs.

    Raises:
        LazydepsError: it is no ELF file that can be read.
    """
    try:
        with path.open("rb") as stream:
            sections = {
                section.name: hashlib.sha256(section.data()).hexdigest()
                for section in ELFFile(stream).iter_sections()
                if section["sh_type"] in _SYMBOL_SECTIONS or section.name == ".dynstr"
            }
    except (ELFError, OSError, UnicodeDecodeError) as error:
        raise LazydepsError(f"an ELF file could not be read: {error}.") from error
    return _read(path), sections


def is_shared_object(name: str) -> bool:
    """Tell from a file's name whether it is a shared object: ``x.so``, ``x.so.1.2``."""
    return name.endswith(".so") or ".so." in name


def _required_glibc(path: Path) -> tuple[int, ...]:
    newest: tuple[int, ...] = ()
    try:
        with path.open("rb") as stream:
            for section in ELFFile(stream).iter_sections():
                if isinstance(section, GNUVerNeedSection):
                    for _library, versions in section.iter_versions():
                        for version in versions:
                            numbers = str(version.name).removeprefix("GLIBC_").split(".")
                            if all(number.isdecimal() for number in numbers):  # not GLIBCXX_3.4, not GLIBC_PRIVATE
                                newest = max(newest, tuple(map(int, numbers)))
    except (ELFError, OSError, UnicodeDecodeError):
        pass  # as in `_read`: nothing the loader could load either
    return newest


def _read(path: Path) -> Dynamic:
    try:
        with path.open("rb") as stream:
            if stream.read(4) != b"\x7fELF":
                return Dynamic()
            found: dict[str, list[str]] = {name: [] for name in _TAGS.values()}
            # The segment, not the section: it is what the loader reads, and stripping may remove sections.
            segments = ELFFile(stream).iter_segments("PT_DYNAMIC")
            for segment in (segment for segment in segments if isinstance(segment, DynamicSegment)):
                for tag in segment.iter_tags():
                    name = _TAGS.get(tag.entry.d_tag)
                    if name is not None:
                        found[name].append(getattr(tag, name))
            search = found["runpath"] or found["rpath"]
            return Dynamic(
                needed=tuple(found["needed"]),
                soname="".join(found["soname"][:1]),
                search=tuple(entry for entries in search for entry in entries.split(":")),
            )
    except (ELFError, OSError, UnicodeDecodeError):
        return Dynamic()  # a linker script, a stub for another system, test data: nothing the loader could follow
