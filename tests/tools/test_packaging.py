"""The wheel holds what the tree holds, and an installed Tessera is the tree's."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("golden", "hw", "sim", "tb")
SHIPPED = (".py", ".v", ".toml", ".html", ".j2")


def shipped():
    files = (file for room in ROOMS for file in (ROOT / room).rglob("*"))
    return {file.relative_to(ROOT) for file in files if file.is_file() and file.suffix in SHIPPED}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    # From a copy: the build leaves files behind, and what an earlier one left would be shipped too.
    folder = tmp_path_factory.mktemp("wheel")
    for room in ROOMS:
        shutil.copytree(ROOT / room, folder / "tree" / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "tree")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, "."]
    result = subprocess.run(command, cwd=folder / "tree", capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return next(folder.glob("tessera-*.whl"))


def test_the_wheel_holds_what_the_tree_holds(wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = {Path(name) for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == {Path("tessera") / file for file in shipped()}


def test_every_subpackage_is_listed():
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {"tessera." + ".".join(file.parent.parts) for file in shipped() if file.name == "__init__.py"}
    assert found == listed


def test_every_folder_of_modules_is_a_package():
    folders = {file.parent for file in shipped() if file.suffix == ".py"}
    assert not [str(folder) for folder in folders if not (ROOT / folder / "__init__.py").exists()]


def test_every_package_is_pinned():
    pins = [line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().split()]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = project["dependencies"] + project["optional-dependencies"]["dev"]
    assert {name.lower() for name in asked} <= set(pins)
    assert len(pins) == len(set(pins))
