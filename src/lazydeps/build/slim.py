"""Leave out of an installed tree what no running program reads, by the rules of ``prune.toml``; say what was saved.

Before the trace it is decided what may go (`plan`), after it what the trace did not touch is removed (`slim`): a file
that the traced program opened or imported stays, whatever a rule says.
"""

from __future__ import annotations

import functools
import posixpath
import tomllib
from collections import deque
from dataclasses import dataclass, field
from importlib.resources import files as package_files
from typing import TYPE_CHECKING, Any

from lazydeps.errors import ConfigError

from . import resolve
from .elf import is_shared_object
from .patterns import expression
from .references import References, files_on_disk
from .sets import boot_files, is_for_tools
from .sourceless import drop_sources
from .trace import FILE_PREFIX

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    from .elf import ElfTree
    from .options import PackOptions

RULE = "rule:"
"""Begins a ``--exclude`` or ``--keep`` that means a rule of ``prune.toml`` and no pattern."""
STRIP, SOURCES = "strip", "sources"
"""What is saved by no rule but by ``--strip`` and by ``--sources drop``."""
NOBODY = "(no distribution)"
"""What files count for that no RECORD lists."""
_LICENCES = ("license", "licence", "unlicense", "notice", "copying", "copyright", "authors")
_CODE = (".py", ".pyc", ".pyi", ".so", ".h", ".c", ".cpp", ".pyx", ".pxd")


@dataclass(frozen=True, slots=True)
class Rule:
    """A named reason to leave files out."""

    name: str
    why: str
    patterns: tuple[str, ...]
    default: bool


@dataclass(frozen=True, slots=True)
class KeepEntry:
    """Files of one distribution that something does not apply to."""

    distribution: str
    """Normalised name."""
    patterns: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Rules:
    """What ``prune.toml`` says."""

    rules: dict[str, Rule]
    keep: tuple[KeepEntry, ...]
    """Files that no rule leaves out."""
    sources: tuple[KeepEntry, ...]
    """Sources that ``--sources drop`` keeps."""
    opened: tuple[KeepEntry, ...]
    """Sources that a running program opens as files: they are data, and ``--sources drop`` keeps them."""
    docstrings: tuple[KeepEntry, ...]
    """What ``-OO`` breaks; nothing is done about it but saying so."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What may be left out of a tree, unless the trace names it."""

    removable: dict[str, str]
    """Posix paths relative to the tree, each with the rule (or the option) that names it."""
    kept: dict[str, str]
    """Files that a rule names and that stay, each with the reason."""
    owners: dict[str, str]
    """Each installed file's distribution."""
    beside: tuple[tuple[str, str], ...] = ()
    """Modules, each with a file that has to lie on the disk when it is imported (`references.files_on_disk`)."""
    opened: frozenset[str] = frozenset()
    """Files that a running program opens by their paths, whatever they look like."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Saved:
    """A file that was left out or made smaller."""

    path: str
    rule: str
    """A rule of ``prune.toml``, ``--exclude PATTERN``, ``strip`` or ``sources``."""
    distribution: str
    bytes: int


@dataclass(slots=True)
class Sum:
    """How much was saved somewhere."""

    files: int = 0
    bytes: int = 0


@dataclass(slots=True)
class Slimmed:
    """What was left out of a tree, and what was not although a rule names it."""

    saved: list[Saved] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)
    """Files that a rule names and that stay, each with the reason."""
    warnings: list[str] = field(default_factory=list)

    def by_rule(self) -> dict[str, Sum]:
        """Return what each rule saved, the most first."""
        return _sums((entry.rule, entry.bytes) for entry in self.saved)

    def by_distribution(self) -> dict[str, Sum]:
        """Return what was saved of each distribution that lost something, the most first."""
        return _sums((entry.distribution, entry.bytes) for entry in self.saved)


@functools.cache
def rules() -> Rules:
    """Return what ``prune.toml`` says."""
    text = package_files("lazydeps.build").joinpath("prune.toml").read_text(encoding="utf-8")
    document = tomllib.loads(text)
    return Rules(
        {
            name: Rule(name, entry["why"], tuple(entry["patterns"]), entry["default"])
            for name, entry in document["rules"].items()
        },
        _exceptions(document, "keep"),
        _exceptions(document, "sources"),
        _exceptions(document, "opened"),
        _exceptions(document, "docstrings"),
    )


def plan(tree: Path, files: Sequence[str], options: PackOptions) -> Plan:
    """Decide what may be left out, before anything is compiled or traced. Nothing is changed.

    Args:
        tree: the installed tree.
        files: its files.
        options: ``prune``, ``exclude`` and ``keep`` count; ``optimize`` may be worth a warning.

    Raises:
        ConfigError: an option names a rule that does not exist.
    """
    known = rules()
    owners = resolve.owners(tree)
    switched_on, exclude = _split(options.exclude)
    switched_off, keep = _split(options.keep)
    active = [
        rule
        for name, rule in known.rules.items()
        if ((options.prune and rule.default) or name in switched_on) and name not in switched_off
    ]
    kept: dict[str, str] = {}
    removable: dict[str, str] = {}
    groups: dict[str, str] = {}
    present = set(owners.values())
    protected = [
        (expression(entry.patterns), f"{entry.distribution} needs it: {entry.reason}")
        for entry in known.keep
        if entry.distribution in present
    ]
    keeps = [(expression([pattern]), f"--keep {pattern}") for pattern in keep]
    excludes = [(expression([pattern]), f"--exclude {pattern}") for pattern in exclude]
    named = [(expression(rule.patterns), rule) for rule in active]
    used: set[str] = set()
    opened: set[str] = set()
    for path in files:
        ours = next((rule for pattern, rule in named if pattern.match(path)), None)
        theirs = next((option for pattern, option in excludes if pattern.match(path)), None)
        asked = next((option for pattern, option in keeps if pattern.match(path)), None)
        used.update(filter(None, (theirs, asked)))
        wanted = asked is not None or any(pattern.match(path) for pattern, _ in protected)
        if wanted and is_for_tools(path) and not path.endswith(".py"):
            opened.add(path)
        if ours is None and theirs is None:
            continue
        if asked is not None:
            kept[path] = asked
        elif is_metadata(path):
            kept[path] = "metadata and licences are always kept"
        elif theirs is not None:
            removable[path] = theirs
        elif (why := next((why for pattern, why in protected if pattern.match(path)), None)) is not None:
            kept[path] = why
        elif ours is not None:
            removable[path] = ours.name
            groups[path] = _group(path, ours)
    beside = tuple(files_on_disk(tree, (path for path in files if path.endswith(".py"))))
    for path, why in _named_by_code(tree, files, removable, groups, beside).items():
        del removable[path]
        kept[path] = why
    idle = [option for _, option in (*excludes, *keeps) if option not in used]
    warnings = [f"{option} names no file of the installation." for option in idle]
    if options.optimize > 1:
        warnings += [
            f"{entry.distribution} needs docstrings, which -OO takes away: {entry.reason}. Use -O."
            for entry in known.docstrings
            if entry.distribution in present
        ]
    opened.update(path for path in matching(known.opened, present, files) if path.endswith(".py"))
    opened.update(file for module, file in beside if module not in removable)
    return Plan(removable, kept, owners, beside, frozenset(opened), tuple(warnings))


def needed_files(
    order: Iterable[str], planned: Plan, files: Collection[str], *, elf: ElfTree, cache_tag: str
) -> frozenset[str]:
    """Return the files that have to stay whatever a rule says: those of the trace, and the libraries of what stays."""
    entries = tuple(order)
    wanted = {entry.removeprefix(FILE_PREFIX) for entry in entries}
    wanted.update(boot_files(entries, frozenset(files), elf, cache_tag))
    if any(is_shared_object(posixpath.basename(path)) for path in planned.removable):
        for path in files:
            if path not in planned.removable and is_shared_object(posixpath.basename(path)):
                wanted.update(elf.needed_closure(path))
    return frozenset(wanted)


def slim(
    tree: Path,
    files: Sequence[str],
    planned: Plan,
    *,
    needed: Collection[str],
    options: PackOptions,
    opened: Collection[str] = (),
    stripped: Mapping[str, int] | None = None,
    cache_tag: str,
) -> Slimmed:
    """Remove what was planned, except what is needed after all; drop sources; make RECORD files agree.

    Args:
        tree: the installed tree, compiled; changed in place.
        files: its files, bytecode included.
        planned: what may go.
        needed: what may not (`needed_files`).
        options: ``sources`` and ``keep`` count.
        opened: sources that the trace opened as files.
        stripped: files that became smaller, with the bytes saved.
        cache_tag: what the bytecode files are named after.
    """
    done = Slimmed(kept=dict(planned.kept))
    wanted: dict[str, list[str]] = {}
    for path, rule in planned.removable.items():
        if path in needed:
            done.kept[path] = "the trace touches it, or a library needs it"
            if rule not in rules().rules:
                wanted.setdefault(rule, []).append(path)
            continue
        file = tree / path
        done.saved.append(Saved(path, rule, planned.owners.get(path, NOBODY), file.stat().st_size))
        file.unlink()
    for option, paths in wanted.items():
        some = ", ".join(paths[:3]) + (", …" if len(paths) > 3 else "")
        done.warnings.append(
            f"{option} names {len(paths)} files that the traced program touches ({some}); they are packed. "
            f"Trace a program that does without them if they shall go."
        )
    for path, count in (stripped or {}).items():
        done.saved.append(Saved(path, STRIP, planned.owners.get(path, NOBODY), count))
    dropped: dict[str, int] = {}
    if options.sources == "drop":
        gone = {entry.path for entry in done.saved if entry.rule != STRIP}
        left = [path for path in files if path not in gone]
        asked = _split(options.keep)[1]
        named = expression(asked)
        stay = {**dict.fromkeys(opened), **{path: None for path in left if named.match(path)}}
        stay |= matching((*rules().sources, *rules().opened), frozenset(planned.owners.values()), left)
        stay |= dict.fromkeys(file for _, file in planned.beside)
        dropped = drop_sources(tree, left, stay=stay, cache_tag=cache_tag)
        for path, count in dropped.items():
            done.saved.append(Saved(path, SOURCES, planned.owners.get(path, NOBODY), count))
    if done.saved:
        changed = {**dict.fromkeys(stripped or ()), **dropped}
        resolve.rewrite_records(tree, changed={path: path + "c" if path in dropped else path for path in changed})
    return done


def is_metadata(path: str) -> bool:
    """Tell whether a file describes a distribution or says under which terms it may be used."""
    *folders, name = path.lower().split("/")
    if folders and folders[0].endswith((".dist-info", ".egg-info")):
        return True
    return "licenses" in folders or (name.startswith(_LICENCES) and not name.endswith(_CODE))


def matching(exceptions: Iterable[KeepEntry], present: Collection[str], files: Iterable[str]) -> dict[str, str]:
    """Return the files that exceptions of installed distributions name, each with the reason."""
    chosen = [(expression(entry.patterns), entry) for entry in exceptions if entry.distribution in present]
    found: dict[str, str] = {}
    for path in files if chosen else ():
        for pattern, entry in chosen:
            if pattern.match(path):
                found[path] = f"{entry.distribution} needs it: {entry.reason}"
    return found


def _split(values: Sequence[str]) -> tuple[set[str], list[str]]:
    """Divide an option's values into names of rules and patterns."""
    names = {value.removeprefix(RULE) for value in values if value.startswith(RULE)}
    for name in sorted(names - rules().rules.keys()):
        raise ConfigError(f"there is no rule {name!r} to prune by. The rules are {', '.join(rules().rules)}.")
    return names, [value for value in values if not value.startswith(RULE)]


def _group(path: str, rule: Rule) -> str:
    """Return what is kept or left out together with a file: the folder that the rule means, or the file itself."""
    folders = expression([pattern.removesuffix("/**") for pattern in rule.patterns if pattern.endswith("/**")])
    parts = path.split("/")
    for end in range(1, len(parts)):
        folder = "/".join(parts[:end])
        if folders.match(folder):
            return folder
    return path


def _named_by_code(
    tree: Path,
    files: Sequence[str],
    removable: Mapping[str, str],
    groups: Mapping[str, str],
    beside: Iterable[tuple[str, str]],
) -> dict[str, str]:
    """Return the files that code which stays imports or reads, with the reason; transitively."""
    members: dict[str, list[str]] = {}
    for path, group in groups.items():
        members.setdefault(group, []).append(path)
    references = References(tree, groups)
    found: dict[str, str] = {}
    queue = deque(path for path in files if path.endswith(".py") and path not in removable)
    stays = list(queue)

    def put_back(group: str, source: str) -> None:
        for path in members.pop(group, ()):
            found[path] = f"{source} imports from {group}"
            if path.endswith(".py"):
                queue.append(path)
                stays.append(path)

    for path in files:
        if posixpath.basename(path) == "entry_points.txt":
            text = (tree / path).read_text(encoding="utf-8", errors="replace")
            for group in references.of_entry_points(text):
                put_back(group, path)
    while queue:
        path = queue.popleft()
        for group in references.of_source(path):
            put_back(group, path)
    there = frozenset(stays)
    for module, file in beside:
        if module in there and file in groups and file not in found:
            found[file] = f"{module} reads it when it is imported"
    return found


def _exceptions(document: Mapping[str, Any], key: str) -> tuple[KeepEntry, ...]:
    return tuple(
        KeepEntry(entry["distribution"], tuple(entry["patterns"]), entry["reason"]) for entry in document.get(key, ())
    )


def _sums(entries: Iterable[tuple[str, int]]) -> dict[str, Sum]:
    sums: dict[str, Sum] = {}
    for name, count in entries:
        entry = sums.setdefault(name, Sum())
        entry.files += 1
        entry.bytes += count
    return dict(sorted(sums.items(), key=lambda item: (-item[1].bytes, item[0])))
