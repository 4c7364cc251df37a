"""Get the installed tree that a pack is made of: resolve and install with uv, or adopt a folder that exists.

Also makes it reproducible (the same inputs give the same files in any folder) and says which distributions and
importable modules it holds. It compiles nothing and imports nothing of the tree.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import re
import shutil
import stat
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from lazydeps.errors import ConfigError, UnsafeArchiveError

from . import uv
from .records import read_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from .interpreters import Interpreter

GLIBC_FLOORS = {"3.11": "2.17"}
"""The C library that a pack may count on, by Python minor version, where it is not `GLIBC_FLOOR`. Lambda's
python3.11 runs on Amazon Linux 2 with glibc 2.26, and 2.17 is the nearest platform below it that uv knows."""
GLIBC_FLOOR = "2.34"
"""Amazon Linux 2023, on which Lambda runs Python 3.12 and later."""

_HARDLINK_SIZE = 1 << 20
"""Files of the user's folder of at least so many bytes are hard-linked, not copied: nobody writes into a library in
place, while a small file might be a cache that the traced program updates."""
_NOT_MODULES = frozenset(
    ["test", "tests", "testing", "doc", "docs", "example", "examples", "benchmarks", "scripts", "share", "bin"]
)
_BOOKKEEPING = {"INSTALLER", "REQUESTED", "uv_cache.json", "uv_build.json"}
"""Files in a dist-info folder that say how it came here, which differs between machines and means nothing later."""


@dataclass(frozen=True, slots=True)
class Installed:
    """What an installation left to say."""

    warnings: tuple[str, ...] = ()


def glibc_floor(python: str) -> str:
    """Return the default C library version for a Python minor version: that of Lambda's runtime, or the next below."""
    return GLIBC_FLOORS.get(python, GLIBC_FLOOR)


def install(
    requirements: Sequence[str],
    *,
    requirement_files: Sequence[Path] = (),
    constraints: Sequence[Path] = (),
    more: Sequence[str] = (),
    into: Path,
    interpreter: Interpreter,
    arch: str,
    glibc: str | None,
    on_line: Callable[[str], None] | None = None,
) -> Installed:
    """Resolve and install requirements into a folder with ``uv pip install --target``.

    Wheels are taken wherever a version has one, even an older one: uv by itself prefers a newer version's source
    archive, which it would build against this machine's C library. Sources are built only for projects that have no
    wheel at all, and for what is named by its place: a folder, a repository, a source archive. For another
    architecture that works for pure Python; uv refuses a wheel that was compiled here.

    Args:
        requirements: requirement strings, as on uv's command line.
        requirement_files: ``requirements.txt`` files.
        constraints: constraint files.
        more: further arguments of uv, for example ``--no-index``.
        into: the folder; made if missing.
        interpreter: a CPython of the target's minor version.
        arch: ``x86_64`` or ``arm64``.
        glibc: the oldest C library that the result must run on, for example ``2.34``; None for this machine's platform.
        on_line: called with each line that uv says, as it says it.

    Raises:
        ConfigError: uv is missing.
        LazydepsError: uv failed, and the message holds its reason; or the target is another machine, and packages
            have neither a wheel for it nor can be built without a compiler: all of them are named.
    """
    machine = {"arm64": "aarch64"}.get(arch, arch)
    platform = () if glibc is None else ("--python-platform", f"{machine}-manylinux_{glibc.replace('.', '_')}")
    wanted = [part for file in requirement_files for part in ("-r", os.fspath(file))]
    wanted += [part for file in constraints for part in ("-c", os.fspath(file))]
    here = (
        *("--python", os.fspath(interpreter.path), "--python-version", interpreter.minor, "--no-compile-bytecode"),
        *("--link-mode", "copy", "--color", "never"),
    )
    built = uv.install(
        uv.Demand(
            wanted=(*more, *wanted, "--", *requirements),
            here=here,
            platform=platform,
            options=tuple(_index_options(requirement_files, more)),
            foreign=glibc is not None and (interpreter.arch, interpreter.platform) != (arch, "linux"),
            target=f"Python {interpreter.minor} on {arch}" + (f" with glibc {glibc}" if glibc else ""),
        ),
        into,
        on_line=on_line,
    )
    return Installed(tuple(_build_warnings(into, built, glibc=glibc, here=interpreter.glibc)))


def adopt(folder: Path, *, into: Path) -> Installed:
    """Copy an existing site-packages folder to a scratch folder, without its bytecode and without links.

    Links to files and folders inside are replaced by what they lead to. The folder itself is never written to: large
    files are hard-linked where the file system can, the rest is copied.

    Raises:
        ConfigError: ``folder`` is no folder, or holds nothing.
        UnsafeArchiveError: a link leads out of the folder, nowhere or in a circle, or something is no plain file.
    """
    root = folder.resolve()
    if not root.is_dir():
        raise ConfigError(f"--from-dir wants a site-packages folder, and {folder} is none.")
    into.mkdir(parents=True, exist_ok=True)
    _copy(root, into, root, (root,))
    if not any(into.iterdir()):
        raise ConfigError(f"--from-dir wants a site-packages folder with installed packages, and {folder} is empty.")
    return Installed(tuple(path_warnings(into)))


def refuse_editable(tree: Path) -> None:
    """Refuse an installation that holds links to projects in the place of their code, as older versions of uv make.

    Raises:
        ConfigError: there is one. Call this before `normalise`, which removes what says so.
    """
    for dist in _distributions(tree):
        if '"editable":true' in re.sub(r"\s", "", _read_text(tree / dist.info / "direct_url.json")):
            raise ConfigError(
                f"{dist.name} was installed as an editable project: a link to its folder, and a pack needs its code. "
                "Give the folder without -e or editable = true, or update uv: pip install -U uv."
            )


def normalise(tree: Path, *, drop_scripts: bool) -> None:
    """Remove what an installation leaves that depends on the machine, and make the RECORD files agree with the rest.

    Args:
        tree: the installed tree; changed in place.
        drop_scripts: whether to remove ``bin/``, whose scripts begin with the path of an interpreter here.
    """
    if drop_scripts:
        shutil.rmtree(tree / "bin", ignore_errors=True)
    (tree / ".lock").unlink(missing_ok=True)
    for cache in sorted(tree.rglob("__pycache__")):
        shutil.rmtree(cache)
    for info in sorted(tree.glob("*.dist-info")):
        for name in _BOOKKEEPING:
            (info / name).unlink(missing_ok=True)
        _drop_local_url(info / "direct_url.json")
    rewrite_records(tree)


def rewrite_records(tree: Path, *, changed: Mapping[str, str] | None = None) -> None:
    """Make the RECORD files list what is there (PEP 376).

    Args:
        tree: the installed tree; changed in place.
        changed: files whose content is not the installed one any more, by the path under which they were listed:
            the path at which they are now. Their digests are computed anew.
    """
    files = frozenset(list_files(tree))
    for info in sorted(tree.glob("*.dist-info")):
        if (info / "RECORD").is_file():
            _rewrite_record(tree, info, files, changed or {})


def list_files(tree: Path) -> list[str]:
    """Return a tree's files as sorted posix paths relative to it."""
    found: list[str] = []
    for folder, _, names in os.walk(tree):
        relative = Path(folder).relative_to(tree)
        found += [(relative / name).as_posix() for name in names]
    return sorted(found)


def list_distributions(tree: Path) -> dict[str, str]:
    """Return the installed distributions, normalised name (PEP 503) to version, sorted by name."""
    return {dist.name: dist.version for dist in _distributions(tree)}


def distribution_files(tree: Path) -> dict[str, tuple[str, ...]]:
    """Return the files that each installed distribution's RECORD names: normalised name to posix paths, sorted."""
    return {dist.name: dist.files for dist in _distributions(tree)}


def distribution_requires(tree: Path) -> dict[str, tuple[str, ...]]:
    """Return what each installed distribution requires: normalised name to requirement strings."""
    return {dist.name: dist.requires for dist in _distributions(tree)}


def owners(tree: Path) -> dict[str, str]:
    """Return which distribution each installed file belongs to: path to normalised name, as RECORD files list them."""
    found: dict[str, str] = {}
    for dist in _distributions(tree):
        for listed in dist.files:
            found.setdefault(Path(os.path.normpath(listed)).as_posix(), dist.name)
        for path in (tree / dist.info).rglob("*"):
            found.setdefault(path.relative_to(tree).as_posix(), dist.name)
    return found


def requested_names(
    requirements: Sequence[str], *, requirement_files: Sequence[Path] = (), tree: Path
) -> frozenset[str]:
    """Return the normalised names of the installed distributions that the user asked for.

    Requirements without a name (a folder, an archive, a repository) are known by the ``direct_url.json`` that the
    installation left, so call this before `normalise`.
    """
    installed = list_distributions(tree)
    lines = list(requirements)
    for file in requirement_files:
        lines += _requirement_lines(file, seen=set())
    names = {name for line in lines if (name := _requirement_name(line)) is not None}
    names |= {dist.name for dist in _distributions(tree) if (tree / dist.info / "direct_url.json").exists()}
    return frozenset(names & installed.keys()) or frozenset(root_distributions(tree, python=None))


def root_distributions(tree: Path, *, python: str | None) -> list[str]:
    """Return the distributions that no other one requires, sorted; all of them where each is required by another.

    Args:
        tree: the installed tree.
        python: the target's minor version, for markers; the running one's if None.
    """
    everything = _distributions(tree)
    environment = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "extra": ""}
    if python is not None:
        environment |= {"python_version": python, "python_full_version": f"{python}.0"}
    required: set[str] = set()
    for dist in everything:
        for line in dist.requires:
            try:
                requirement = Requirement(line)
            except InvalidRequirement:
                continue  # old metadata; what it requires then counts as asked for, which breaks nothing
            wanted = requirement.marker is None or requirement.marker.evaluate(environment)
            if wanted and canonicalize_name(requirement.name) != dist.name:
                required.add(canonicalize_name(requirement.name))
    return [dist.name for dist in everything if dist.name not in required] or [dist.name for dist in everything]


def requested_modules(tree: Path, requested: Collection[str], *, suffixes: Sequence[str]) -> list[str]:
    """Return the modules that a user of some distributions imports: their public top-level ones.

    Modules whose name begins with an underscore count only where a distribution has no others; tests and
    documentation never. Of a namespace package the portion is named (``google.cloud.storage``). In a tree that
    describes no distribution at all, every public module is one.

    Args:
        tree: the installed tree.
        requested: normalised names of distributions.
        suffixes: the target's suffixes of extension modules.
    """
    found: dict[str, None] = {}
    distributions = _distributions(tree)
    for dist in distributions:
        if dist.name in requested:
            modules = _modules(dist.files, suffixes)
            public = [name for name in modules if not name.startswith("_")]
            found.update(dict.fromkeys(public or modules))
    if not distributions:
        # People remove the dist-info folders of what they pack by hand.
        found.update(dict.fromkeys(name for name in _modules(list_files(tree), suffixes) if not name.startswith("_")))
    return list(found)


def check_abi(files: Collection[str], *, python: str, arch: str, what: str) -> None:
    """Check that a tree's extension modules are, at least some of them, for the target.

    Raises:
        ConfigError: there are extension modules for CPython, and none for this version and architecture.
    """
    machine = {"arm64": "aarch64"}.get(arch, arch)
    wanted = f".cpython-{python.replace('.', '')}-{machine}-linux-gnu.so"
    tagged = sorted({match.group() for path in files if (match := re.search(r"\.cpython-\d\w*-[\w-]+\.so$", path))})
    if tagged and wanted not in tagged:
        raise ConfigError(
            f"the pack is to run on CPython {python} on {arch}, and the compiled modules in {what} are named "
            f"*{', *'.join(tagged)}. Choose --python and --arch to match, or install for the target first."
        )


@dataclass(frozen=True, slots=True)
class _Distribution:
    name: str
    version: str
    info: str
    """Its dist-info or egg-info folder, relative to the tree."""
    requires: tuple[str, ...]
    files: tuple[str, ...]


def _distributions(tree: Path) -> list[_Distribution]:
    """Read the metadata of all installed distributions, sorted by name."""
    found: dict[str, _Distribution] = {}
    for info in sorted([*tree.glob("*.dist-info"), *tree.glob("*.egg-info")]):
        metadata = next((info / name for name in ("METADATA", "PKG-INFO") if (info / name).is_file()), None)
        if metadata is None:
            continue
        fields = HeaderParser().parsestr(_read_text(metadata))
        if not fields["Name"]:
            continue
        if not (str(fields["Name"]).isprintable() and str(fields["Version"] or "").isprintable()):
            raise ConfigError(
                f"{info.name} gives its distribution's name or version with control characters: "
                f"{str(fields['Name'])!r:.60}, {str(fields['Version'])!r:.60}. Install it from a source you trust."
            )
        name = canonicalize_name(fields["Name"])
        requires = tuple(str(line) for line in fields.get_all("Requires-Dist") or ())
        found[name] = _Distribution(name, fields["Version"] or "", info.name, requires, tuple(_record_paths(info)))
    return [found[name] for name in sorted(found)]


def _record_paths(info: Path) -> list[str]:
    rows = read_rows(info / "RECORD")
    if rows:
        return sorted({row[0].replace("\\", "/") for row in rows})
    # An egg-info, or a RECORD that a system's packager removed: what top_level.txt names is all there is to know.
    paths: list[str] = []
    for name in _read_text(info / "top_level.txt").split():
        paths += [path.name for path in info.parent.glob(f"{name}.*") if path.is_file()]
        if (info.parent / name).is_dir():
            paths += [f"{name}/{path}" for path in list_files(info.parent / name)]
    return sorted(paths)


def _modules(files: Sequence[str], suffixes: Sequence[str]) -> list[str]:
    """Return the top-level modules among installed files: shortest dotted names first found, sorted."""
    modules: set[str] = set()
    for path in files:
        folder, _, name = path.rpartition("/")
        suffix = next((suffix for suffix in (".py", *suffixes) if name.endswith(suffix)), None)
        if suffix is None:
            continue
        stem = name.removesuffix(suffix)
        parts = [*folder.split("/")] if folder else []
        if stem != "__init__":
            parts.append(stem)
        if parts and all(part.isidentifier() for part in parts) and parts[0] not in _NOT_MODULES:
            modules.add(".".join(parts))
    # A module inside another one is imported by it, or is left to whoever needs it. What remains below a folder
    # without an __init__ is a portion of a namespace package.
    top = {name for name in modules if not any(parent in modules for parent in _parents(name))}
    return sorted(name for name in top if "." not in name or not name.rpartition(".")[2].startswith("_"))


def _parents(name: str) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def _requirement_lines(file: Path, *, seen: set[Path], options: bool = False) -> Iterator[str]:
    """Yield the requirements of a file and of the files that it includes, or else its options."""
    if file in seen:
        return
    seen.add(file)
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"the requirements file {file} could not be read: {error.strerror or error}.") from error
    for line in text.replace("\\\n", "").splitlines():
        stripped = re.sub(r"(^|\s)#.*$", "", line).strip()
        included = re.match(r"(?:-r|--requirement)[ =]*(.+)$", stripped)
        if included:
            yield from _requirement_lines(file.parent / included.group(1), seen=seen, options=options)
        elif stripped and stripped.startswith("-") == options:
            yield stripped if options else re.split(r"\s+--", stripped)[0]


def requirement_lines(files: Sequence[Path]) -> list[str]:
    """Return the requirements of files, and of those that they include.

    Raises:
        ConfigError: one cannot be read.
    """
    return [line for file in files for line in _requirement_lines(file, seen=set())]


def index_options(files: Sequence[Path]) -> list[str]:
    """Return the names of a file's options that say where packages are looked for, without what may be a secret."""
    names = ("-i", "--index-url", "--extra-index-url", "-f", "--find-links")
    lines = [line for file in files for line in _requirement_lines(file, seen=set(), options=True)]
    return [name for line in lines for name in names if re.match(rf"{name}(?:[ =]|$)", line)]


def requirement_name(line: str) -> str | None:
    """Return the normalised name in a requirement or in a wheel's name; None where there is none."""
    return _requirement_name(line)


def _requirement_name(line: str) -> str | None:
    try:
        return canonicalize_name(Requirement(line).name)
    except InvalidRequirement:
        pass
    try:
        return parse_wheel_filename(line.partition("#")[0].rpartition("/")[2])[0]
    except InvalidWheelFilename:
        return None


def _index_options(files: Sequence[Path], more: Sequence[str]) -> list[str]:
    """Return what says where packages are looked for, in requirements files and on the command line."""
    found = [word for name, value in zip(more, (*more[1:], ""), strict=False) for word in _index_option(name, value)]
    for file in files:
        for line in _requirement_lines(file, seen=set(), options=True):
            name, _, value = line.replace("=", " ", 1).partition(" ")
            if name in ("-i", "-f") and not value:
                name, value = line[:2], line[2:]
            if name in ("-i", "--index-url", "--extra-index-url", "-f", "--find-links"):
                value = value.strip()
                near = file.parent / value
                found += [name, os.fspath(near.absolute()) if near.exists() else value]
            elif name == "--no-index":
                found.append(name)
    return found


def _copy(source: Path, target: Path, root: Path, ancestors: tuple[Path, ...]) -> None:
    for entry in sorted(os.scandir(source), key=lambda entry: entry.name):
        path = Path(entry.path)
        shown = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
        if entry.name == "__pycache__":
            continue
        if entry.is_symlink():
            try:
                path = path.resolve(strict=True)
            except (OSError, RuntimeError) as error:
                raise UnsafeArchiveError(
                    f"{shown} is a link that leads nowhere, to {os.readlink(entry.path)}. Remove it or mend it.",
                    member=shown,
                ) from error
            if not path.is_relative_to(root):
                raise UnsafeArchiveError(
                    f"{shown} is a link that leads out of the folder, to {path}. A pack holds only what lies in the "
                    "folder: put a copy in its place.",
                    member=shown,
                )
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            if path in ancestors:
                raise UnsafeArchiveError(f"{shown} is a link to a folder that holds it. Remove it.", member=shown)
            (target / entry.name).mkdir()
            _copy(path, target / entry.name, root, (*ancestors, path))
        elif stat.S_ISREG(mode):
            _copy_file(path, target / entry.name, path.stat().st_size)
        else:
            raise UnsafeArchiveError(f"{shown} is neither a file nor a folder. Remove it.", member=shown)


def _copy_file(source: Path, target: Path, size: int) -> None:
    if size >= _HARDLINK_SIZE:
        try:
            target.hardlink_to(source)
        except OSError:
            pass  # another file system, or one without hard links
        else:
            return
    shutil.copyfile(source, target)
    shutil.copymode(source, target)


def _index_option(name: str, value: str) -> tuple[str, ...]:
    if name in ("--project", "--find-links"):
        return (name, value)
    return (name,) if name == "--no-index" else ()


def _build_warnings(tree: Path, done: uv.Built, *, glibc: str | None, here: str) -> Iterator[str]:
    built = done.for_want | done.from_place
    compiled = [
        dist.name
        for dist in _distributions(tree)
        if dist.name in built and "Root-Is-Purelib: true" not in _read_text(tree / dist.info / "WHEEL")
    ]
    if done.for_want:
        yield f"built from source, because there is no wheel: {', '.join(sorted(done.for_want))}."
    if compiled and glibc is not None:
        yield (
            f"{', '.join(compiled)}: compiled here, against glibc {here or '(unknown)'}; the target promises only "
            f"{glibc}. Build on the target's own system if it does not load there."
        )


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def path_warnings(tree: Path) -> Iterator[str]:
    """Yield a warning for each ``.pth`` file of a tree."""
    for path in sorted(tree.glob("*.pth")):
        yield f"{path.name} is packed but not honoured: .pth files work only in folders that the site module reads."


def _drop_local_url(path: Path) -> None:
    try:
        url = json.loads(path.read_text(encoding="utf-8")).get("url", "")
    except (OSError, ValueError, AttributeError):
        return
    if not isinstance(url, str) or url.startswith("file:"):
        path.unlink()


def _rewrite_record(tree: Path, info: Path, files: frozenset[str], changed: Mapping[str, str]) -> None:
    """Keep the rows of files that are still there, sorted, with their digests (PEP 376, "RECORD")."""
    record = info / "RECORD"
    own = f"{info.name}/RECORD"
    rows: dict[str, list[str]] = {own: [own, "", ""]}
    for row in read_rows(record):
        path = Path(os.path.normpath(row[0]))
        if path.is_relative_to(tree):
            path = path.relative_to(tree)
        listed = path.as_posix()
        name = changed.get(listed, listed)
        if name in files and name != own:
            rows[name] = _record_row(tree, name) if listed in changed else [name, *row[1:3]]
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows[name] for name in sorted(rows))
    record.unlink()  # it may be a hard link into the user's folder
    record.write_text(text.getvalue(), encoding="utf-8", newline="")


def _record_row(tree: Path, name: str) -> list[str]:
    content = (tree / name).read_bytes()
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
    return [name, f"sha256={digest}", str(len(content))]
