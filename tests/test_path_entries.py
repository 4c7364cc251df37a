"""A pack's folders on a path: what OpenCV, setuptools and `pkgutil` do. Every test imports in a fresh process."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from support_packs import pack_tree, write_tree

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import RunPython

    from lazydeps.build.write import Written

FILES: dict[str, str | bytes] = {
    # As OpenCV: the package puts its own folder on the path, and imports a module of its own name from there.
    "native/__init__.py": """
import importlib, os, sys
if hasattr(sys, "native_loading"):
    raise ImportError("recursion")
sys.native_loading = True
before = list(sys.path)
sys.path.insert(1, os.path.join(os.path.dirname(__file__), "inner"))
outer = sys.modules.pop("native")
real = importlib.import_module("native")
import tomllib
sys.modules["native"] = outer
sys.path[:] = before
VALUE = real.VALUE
""",
    "native/inner/native.py": "VALUE = 'the inner one'\n",
    "native/inner/tomllib.py": "raise ImportError('not the standard library')\n",
    # As setuptools: what is vendored stands last on the path, and is imported when somebody needs it.
    "vendor/__init__.py": "import os, sys\nsys.path.append(os.path.join(os.path.dirname(__file__), '_vendor'))\n",
    "vendor/_vendor/inside.py": "WHERE = 'vendored'\n",
    "vendor/_vendor/space/part.py": "PART = 1\n",
    "vendor/sub/__init__.py": "",
    "vendor/sub/deep.py": "",
    "vendor/plain.py": "",
    "vendor/data.txt": "so that the folder is there when the data set is",
}
BOOT = ["native/__init__.py", "native/inner/native.py", "vendor/__init__.py"]


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A pack of two packages that put folders of theirs on the path; most of it cold."""
    folder = tmp_path_factory.mktemp("pack")
    write_tree(folder / "tree", FILES)
    return pack_tree(folder / "p.tar.zst", folder / "tree", boot=BOOT)


def run(run_python: RunPython, pack: Written, code: str, *, flags: tuple[str, ...] = (), **options: Any) -> Any:
    """Run code with the pack loaded; it prints one JSON value last."""
    head = f"import json, sys, os, lazydeps\nloading = lazydeps.load({f'{pack.path.as_uri()}#root={pack.root}'!r})\n"
    done = run_python(None, *flags, "-c", head + code, **options)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("flags", [(), ("-P",)], ids=["ordinary", "-P"])
def test_a_package_finds_its_extension_through_the_path(
    run_python: RunPython, pack: Written, flags: tuple[str, ...]
) -> None:
    """The way of OpenCV: a folder of the pack, second on `sys.path`, answers before the pack's own top level.

    It hides nothing of the standard library. With ``-P`` what stands first is the standard library's zip.
    """
    code = """
sys.path.remove(os.environ["PYTHONPATH"].rpartition(os.pathsep)[2])
with loading:
    import native
import tomllib
print(json.dumps([native.VALUE, type(native.real.__loader__).__name__, tomllib.__file__ == native.tomllib.__file__]))
"""
    assert run(run_python, pack, code, flags=flags) == ["the inner one", "PackLoader", True]


def test_a_vendored_module_that_has_not_landed_is_found(run_python: RunPython, pack: Written) -> None:
    """The way of setuptools: a folder of the pack, last on `sys.path`, shows the modules that are still in the pack."""
    code = """
with loading:
    import vendor
import space.part, inside  # the namespace first: when its folder is not there yet
print(json.dumps([inside.WHERE, space.part.PART, type(inside.__loader__).__name__]))
"""
    assert run(run_python, pack, code) == ["vendored", 1, "PackLoader"]


def test_an_installed_module_wins_over_one_later_on_the_path(
    run_python: RunPython, pack: Written, tmp_path: Path
) -> None:
    """The order of `sys.path` holds: what stands before a pack's folder is found there."""
    (tmp_path / "inside.py").write_text("WHERE = 'installed'\n")
    code = f"""
sys.path.append({str(tmp_path)!r})
with loading:
    import vendor
import inside
print(json.dumps(inside.WHERE))
"""
    assert run(run_python, pack, code) == "installed"


def test_pkgutil_lists_what_has_not_landed(run_python: RunPython, pack: Written) -> None:
    """`pkgutil.iter_modules` and `walk_packages` show a packed package's modules without fetching them."""
    code = """
import pkgutil
with loading:
    import vendor
walked = [(m.name, m.ispkg) for m in pkgutil.walk_packages(vendor.__path__, "vendor.")]
print(json.dumps([walked, lazydeps.report().packs[0].landed["cold"]]))
"""
    walked, landed = run(run_python, pack, code)
    assert walked == [["vendor.plain", False], ["vendor.sub", True], ["vendor.sub.deep", False]]
    assert landed <= 1  # walking imports `vendor.sub`, to see where its own modules are


def test_the_tree_itself_can_stand_on_the_path(run_python: RunPython, pack: Written) -> None:
    """A store's tree on `sys.path` lists and imports as its pack does, whatever has landed."""
    code = """
import pkgutil
with loading:
    import vendor
tree = os.path.dirname(os.path.dirname(vendor.__file__))
sys.path.insert(0, tree)
import vendor.plain
print(json.dumps([[m.name for m in pkgutil.iter_modules([tree])], type(vendor.plain.__loader__).__name__]))
"""
    assert run(run_python, pack, code) == [["native", "vendor"], "PackLoader"]


def test_a_module_written_into_a_packs_folder_is_found(run_python: RunPython, pack: Written) -> None:
    """What a program writes beside packed modules can be imported and is listed, as in site-packages."""
    code = """
import importlib, pkgutil
with loading:
    import vendor
folder = os.path.dirname(vendor.__file__)
with open(os.path.join(folder, "made.py"), "w") as file:
    file.write("MADE = True")
importlib.invalidate_caches()
import vendor.made
print(json.dumps([vendor.made.MADE, "made" in {m.name for m in pkgutil.iter_modules([folder])}]))
"""
    assert run(run_python, pack, code) == [True, True]


def test_after_uninstall_pythons_own_finder_answers(run_python: RunPython, pack: Written) -> None:
    """`uninstall` leaves no hook and no finder of ours behind for a pack's folders."""
    code = """
import pkgutil
with loading:
    import vendor
folder = os.path.dirname(vendor.__file__)
before = type(pkgutil.get_importer(folder)).__name__
lazydeps.uninstall()
hooks = [hook for hook in sys.path_hooks if "lazydeps" in str(hook)]
print(json.dumps([before, type(pkgutil.get_importer(folder)).__name__, hooks]))
"""
    assert run(run_python, pack, code) == ["PackEntry", "FileFinder", []]
