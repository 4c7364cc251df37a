"""Choose the files of a function's own code, and check its handler without importing it.

Decides by names and syntax trees; it copies nothing and runs nothing.
"""

from __future__ import annotations

import ast
import os
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from lazydeps.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

SKIPPED_FOLDERS = frozenset({"test", "tests", "node_modules", "site-packages", "__pycache__", "cdk.out"})
"""Folders that hold no code of a function. Those that begin with a dot, and virtual environments, count too."""
SKIPPED_UNLESS_PACKAGES = frozenset(
    {"testing", "docs", "doc", "build", "dist", "venv", "env", "infrastructure", "terraform"}
)
"""Likewise, unless they lie in a package and are packages themselves: there the name says nothing."""
SKIPPED_FILES = ("*.pyc", "*.pyo", "*.egg-info", "test_*.py", "*_test.py", "*.swp", "*~", "lazydeps.lock")
NOT_FUNCTIONS = frozenset({"setup.py", "conftest.py", "noxfile.py", "tasks.py", "fabfile.py"})
"""Modules that stand beside a function's code for the tools of its developers."""
SECRETS = (
    *(".env", ".env.*", "*.env", "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.ppk", "*.kdbx"),
    *("credentials", "credentials.*", "secrets", "secrets.*", "client_secret*.json", "service[-_]account*.json"),
    *("id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", ".netrc", ".pypirc", ".npmrc", ".git-credentials", ".htpasswd"),
    *(".pgpass", ".my.cnf", "*.tfstate", "*.tfstate.*", "*.tfvars", "*.tfvars.json"),
)
"""Names of files that often hold secrets, in small letters: they go in only where an include names them without a
wildcard. Modules are code, whatever their name."""
_BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match)
_WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class Code:
    """The files of a function's own code."""

    files: Mapping[str, Path]
    """Posix path in the zip file to the file on disk, sorted."""
    secrets: tuple[str, ...]
    """Files left out because their names say that they hold secrets; relative to the project's folder."""


@dataclass(frozen=True, slots=True)
class Handler:
    """``MODULE.FUNCTION``, as a function's configuration has it."""

    module: str
    """Dotted."""
    function: str

    @classmethod
    def parse(cls, text: str) -> Handler:
        """Parse ``app.handler``, ``pkg.app.handler`` or Lambda's own ``pkg/app.handler``.

        Raises:
            ConfigError: it is none of these.
        """
        module, _, function = text.rpartition(".")
        module = module.replace("/", ".")
        # Lambda imports by name, so that a folder or a file may be called what no import statement could name.
        if not function.isidentifier() or not all(re.fullmatch(r"\w[\w-]*", part) for part in module.split(".")):
            raise ConfigError(f"--handler wants MODULE.FUNCTION, such as app.handler; found {text!r}.")
        return cls(module, function)

    @property
    def paths(self) -> tuple[str, str]:
        """Where the module can lie, posix paths."""
        base = self.module.replace(".", "/")
        return f"{base}.py", f"{base}/__init__.py"

    def __str__(self) -> str:
        return f"{self.module}.{self.function}"


def find_handler(folder: Path) -> Handler | None:
    """Return the handler of a folder that names none: the only usual one that is there."""
    for module, function in (
        ("lambda_function", "lambda_handler"),
        ("app", "handler"),
        ("app", "lambda_handler"),
        ("handler", "handler"),
        ("main", "handler"),
        ("lambda_handler", "handler"),
    ):
        found = Handler(module, function)
        if any(_defines(place / path, function) for place in _roots(folder) for path in found.paths):
            return found
    return None


def code_root(folder: Path, handler: Handler | None) -> Path:
    """Return the folder that becomes the zip file's top: the project's, or its ``src`` where the handler lies there.

    Raises:
        ConfigError: the handler's module is in neither.
    """
    if handler is None:
        return folder
    for place in _roots(folder):
        if any((place / path).is_file() for path in handler.paths):
            return place
    raise ConfigError(
        f"the handler {handler} was not found: there is neither {handler.paths[0]} nor {handler.paths[1]} in {folder} "
        f"or its src folder. Name it as Lambda does, --handler MODULE.FUNCTION, from the top of the code."
    )


def choose(folder: Path, *, handler: Handler | None, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> Code:
    """Choose the files of a function's own code.

    Without patterns: the handler's module or package and the modules and packages beside it, with the data inside
    packages. Tests, hidden folders, virtual environments, caches and what tools leave are never chosen unless an
    include names them without a wildcard.

    Args:
        folder: the project's folder.
        handler: tells which folder becomes the top.
        include: patterns relative to the folder; ``*`` stays within a folder, ``**`` does not, and a folder's name
            stands for everything in it.
        exclude: patterns likewise; one without ``/`` matches names at any depth.

    Raises:
        ConfigError: the handler is not there, an include matches nothing, or a link leads out of the folder.
    """
    folder = folder.resolve()
    root = code_root(folder, handler)
    everything = sorted(_walk(folder, folder))
    chosen: set[str] = set()
    literal: set[str] = set()
    if include:
        for pattern in include:
            matched = {path for path in everything if matches(path, pattern)}
            exact = pattern.removeprefix("./").rstrip("/")
            if not _WILD.search(pattern) and (folder / exact).is_file():
                matched.add(exact)  # also what the walk leaves out: it was named
                literal.add(exact)
            if not matched:
                raise ConfigError(
                    f"--include {pattern} matches no file in {folder}. Patterns are relative to that folder; "
                    "`lazydeps package --dry-run` lists what goes in."
                )
            chosen |= matched
    else:
        top = handler.module.split(".", maxsplit=1)[0] if handler is not None else None
        prefix = "" if root == folder else f"{root.relative_to(folder).as_posix()}/"
        inside = [path for path in everything if path.startswith(prefix)]
        packages = {path.removeprefix(prefix).split("/")[0] for path in inside if _is_package(path, prefix, top)}
        packages |= _imported_folders(folder, prefix, inside, packages)
        for path in inside:
            first, slash, _ = path.removeprefix(prefix).partition("/")
            if first in packages or (
                not slash and first.endswith(".py") and (first not in NOT_FUNCTIONS or first == f"{top}.py")
            ):
                chosen.add(path)
    chosen = {path for path in chosen if not any(matches(path, pattern, anywhere=True) for pattern in exclude)}
    secrets = tuple(sorted(path for path in chosen - literal if _is_secret(path)))
    files: dict[str, Path] = {}
    for path in sorted(chosen.difference(secrets)):
        if not _is_text(path):
            raise ConfigError(
                f"{path!r} has a name that no zip file can have. Rename it, or --exclude it by a pattern."
            )
        source = folder / path
        real = source.resolve()
        if not real.is_relative_to(folder):
            raise ConfigError(
                f"{path} is a link that leads out of {folder}, to {real}. Put a copy in its place, or --exclude it."
            )
        name = source.relative_to(root).as_posix() if source.is_relative_to(root) else path
        files[name] = real
    return Code(dict(sorted(files.items())), secrets)


def check_handler(handler: Handler, files: Mapping[str, Path]) -> str | None:
    """Check that a zip file's handler is there and takes two arguments; return what cannot be told, in words.

    Args:
        handler: what Lambda is to call.
        files: posix paths in the zip file to files on disk.

    Raises:
        ConfigError: the module is not among the files or is no Python, or has no such function, or the function is
            asynchronous or does not take an event and a context.
    """
    path = next((path for path in handler.paths if path in files), None)
    if path is None:
        raise ConfigError(
            f"the zip file would have no {handler.paths[0]}, the module of the handler {handler}. Include it "
            "(--include), or name another handler (--handler MODULE.FUNCTION)."
        )
    module = _parse(files[path], path)
    found = _binding(module, handler.function)
    if found is None and _binding(module, "__getattr__") is not None:
        return f"{path} answers for {handler.function} by __getattr__"
    if found is None:
        raise ConfigError(
            f"{path} defines no {handler.function}, the function of the handler {handler}. Functions it has: "
            f"{', '.join(_functions(files[path])) or 'none'}. Name one of them, --handler {handler.module}.FUNCTION."
        )
    if isinstance(found, ast.AsyncFunctionDef) and not found.decorator_list:
        raise ConfigError(
            f"the handler {handler} is asynchronous, and Lambda's Python runtime calls plain functions. Wrap it: "
            f"`def handler(event, context): return asyncio.run({handler.function}(event, context))`."
        )
    if isinstance(found, ast.AsyncFunctionDef):
        return f"{path} decorates an asynchronous {handler.function}"
    if not isinstance(found, ast.FunctionDef) or found.decorator_list:
        return None if isinstance(found, ast.FunctionDef) else f"{path} makes {handler.function} by an expression"
    takes = found.args
    most = len(takes.posonlyargs) + len(takes.args)
    least = most - len(takes.defaults)
    needed = [arg for arg, default in zip(takes.kwonlyargs, takes.kw_defaults, strict=True) if default is None]
    if least > 2 or (most < 2 and takes.vararg is None) or needed:
        raise ConfigError(
            f"the handler {handler} does not take what Lambda passes: {path}:{found.lineno} says "
            f"`def {found.name}({ast.unparse(takes)})`, and it is called with two arguments, event and context."
        )
    return None


def early_imports(source: str) -> tuple[set[str], bool]:
    """Return the top-level names that a module imports before `lazydeps.load` runs, and whether it calls it at all.

    What stands inside ``with lazydeps.load():`` or after a call of ``load`` is late; what is inside functions runs
    later still.
    """
    early: set[str] = set()
    loads = False

    def visit(statements: Iterable[ast.stmt]) -> bool:
        nonlocal loads
        for statement in statements:
            if isinstance(statement, ast.Import):
                names = {alias.name.partition(".")[0] for alias in statement.names}
                early.update(names)
                if any(alias.name == "lazydeps.auto" for alias in statement.names):
                    loads = True
                    return True
            elif isinstance(statement, ast.ImportFrom):
                if not statement.level and statement.module:
                    early.add(statement.module.partition(".")[0])
            elif isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                continue
            elif _calls_load(statement):
                loads = True
                return True
            else:
                runs = ("orelse",) if _is_for_types(statement) else ("body", "orelse", "finalbody")
                for part in runs:
                    if visit(getattr(statement, part, ())):
                        return True
                for case in (*getattr(statement, "handlers", ()), *getattr(statement, "cases", ())):
                    if visit(case.body):
                        return True
        return False

    visit(ast.parse(source).body)
    return early - {"lazydeps", "__future__"}, loads


def matches(path: str, pattern: str, *, anywhere: bool = False) -> bool:
    """Tell whether a posix path matches a pattern.

    Args:
        path: relative to the project's folder.
        pattern: ``*`` and ``?`` stay within a folder, ``**`` does not; a folder's name stands for all in it.
        anywhere: whether a pattern without ``/`` matches the name of any folder or file on the way.
    """
    pattern = pattern.removeprefix("./")
    if anywhere and "/" not in pattern.rstrip("/"):
        return any(fnmatchcase(part, pattern.rstrip("/")) for part in path.split("/"))
    regex = ""
    for part in re.split(r"(\*\*/|\*\*|\*|\?)", pattern.rstrip("/")):
        regex += {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(part, re.escape(part))
    return re.fullmatch(f"{regex}(?:/.*)?", path) is not None


def _roots(folder: Path) -> tuple[Path, Path]:
    return folder, folder / "src"


def _walk(folder: Path, top: Path, above: frozenset[Path] = frozenset()) -> Iterator[str]:
    """Yield the paths of files that may be code: no tests, hidden folders, environments, caches.

    Links to folders are followed within the top folder. Of one that leads out its own path comes.
    """
    above |= {folder.resolve()}
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = Path(entry.path)
        if entry.is_dir():
            hidden = entry.name.startswith(".") or entry.name in SKIPPED_FOLDERS or entry.name.endswith(".egg-info")
            if entry.name in SKIPPED_UNLESS_PACKAGES:
                hidden = not all((place / "__init__.py").is_file() for place in (folder, path))
            if hidden or (path / "pyvenv.cfg").exists():
                continue
            if entry.is_symlink():
                real = path.resolve()
                if not real.is_relative_to(top):
                    yield path.relative_to(top).as_posix()  # which is refused, if it is chosen
                    continue
                if real in above:
                    continue  # it has no end
            yield from _walk(path, top, above)
        elif entry.is_file() and not any(fnmatchcase(entry.name, pattern) for pattern in SKIPPED_FILES):
            yield path.relative_to(top).as_posix()


def _is_package(path: str, prefix: str, top: str | None) -> bool:
    parts = path.removeprefix(prefix).split("/")
    return len(parts) > 1 and (parts[1:] == ["__init__.py"] or parts[0] == top)


def _imported_folders(folder: Path, prefix: str, inside: Sequence[str], packages: set[str]) -> set[str]:
    """Return the folders without ``__init__.py`` that the code imports: packages like others (PEP 420)."""
    folders: dict[str, list[Path]] = {}
    looked: set[str] = set()
    for path in inside:
        first, slash, _ = path.removeprefix(prefix).partition("/")
        if path.endswith(".py"):
            folders.setdefault(first if slash else "", []).append(folder / path)
        elif not slash and (folder / path).is_dir():
            folders.setdefault(first, [])  # a link that leads out: it is not looked into
    found = set(packages)
    while new := ({"", *found} & folders.keys()) - looked:
        looked |= new
        found |= _imported(file for name in new for file in folders[name]) & folders.keys()
    return found - {""}


def _imported(files: Iterable[Path]) -> set[str]:
    """Return the first parts of the names that modules import, anywhere in them."""
    names: set[str] = set()
    for file in files:
        try:
            nodes = list(ast.walk(ast.parse(file.read_bytes())))
        except (OSError, SyntaxError, ValueError):
            continue
        for node in nodes:
            if isinstance(node, ast.Import):
                names.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names.add(node.module.partition(".")[0])
    return names


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:  # bytes of another encoding
        return False
    return True


def _is_secret(path: str) -> bool:
    name = path.rpartition("/")[2].lower()
    return not name.endswith(".py") and any(fnmatchcase(name, pattern) for pattern in SECRETS)


def _parse(file: Path, shown: str) -> ast.Module:
    try:
        return ast.parse(file.read_bytes())
    except (SyntaxError, ValueError) as error:
        line = f":{error.lineno}" if isinstance(error, SyntaxError) else ""
        raise ConfigError(f"{shown}{line} is no Python: {getattr(error, 'msg', error)}. Mend it first.") from error


def _defines(file: Path, function: str) -> bool:
    try:
        return _binding(ast.parse(file.read_bytes()), function) is not None
    except (OSError, SyntaxError, ValueError):
        return False


def _statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements that run when a module is imported."""
    for statement in body:
        yield statement
        if not isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            for part in ("body", "orelse", "finalbody"):
                yield from _statements(getattr(statement, part, ()))
            for case in (*getattr(statement, "handlers", ()), *getattr(statement, "cases", ())):
                yield from _statements(case.body)


def _binding(module: ast.Module, name: str) -> ast.stmt | None:
    """Return the last statement that gives a name its value when the module is imported."""
    found: ast.stmt | None = None
    for statement in _statements(module.body):
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names = [statement.name]
        elif isinstance(statement, (ast.Import, ast.ImportFrom)):
            names = [alias.asname or alias.name.partition(".")[0] for alias in statement.names]
            if "*" in names:
                found = found or statement  # the other module may have it
        else:
            names = _stored(statement)
        if name in names:
            found = statement
    return found


def _stored(statement: ast.stmt) -> list[str]:
    """Return the names that a statement gives a value itself, without the statements in it."""
    inner = ("body", "orelse", "finalbody", "handlers", "cases")
    parts = [
        value for field, value in ast.iter_fields(statement) if field not in inner or not isinstance(statement, _BLOCKS)
    ]
    nodes = [part for value in parts for part in (value if isinstance(value, list) else [value])]
    return [
        node.id
        for part in nodes
        if isinstance(part, ast.AST)
        for node in ast.walk(part)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    ]


def _functions(file: Path) -> list[str]:
    return [node.name for node in _statements(ast.parse(file.read_bytes()).body) if isinstance(node, ast.FunctionDef)]


def _is_for_types(statement: ast.stmt) -> bool:
    """Tell whether a statement is ``if TYPE_CHECKING:``, whose body never runs."""
    return isinstance(statement, ast.If) and ast.unparse(statement.test).rpartition(".")[2] == "TYPE_CHECKING"


def _calls_load(statement: ast.stmt) -> bool:
    if isinstance(statement, (ast.With, ast.AsyncWith)):
        expressions = [item.context_expr for item in statement.items]
    elif isinstance(statement, (ast.Expr, ast.Assign, ast.AnnAssign)):
        expressions = [statement.value] if statement.value is not None else []
    else:
        return False
    for node in (node for expression in expressions for node in ast.walk(expression)):
        if isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Attribute) and called.attr == "load":
                if isinstance(called.value, ast.Name) and called.value.id == "lazydeps":
                    return True
            elif isinstance(called, ast.Name) and called.id == "load":
                return True
    return False
