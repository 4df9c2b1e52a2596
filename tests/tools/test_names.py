"""No file of the project names a path of the machine it was written on, or a host to download from."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = {".git", ".venv", "build", "out", "__pycache__", "tessera.egg-info"}
# Written so that this file does not match itself.
FORBIDDEN = {
    "a path of one machine": re.compile(r"(?<![\w.])/(work|tmp|home|root|opt|Users|mnt)" + r"/\w"),
    "a package host": re.compile(r"(pypi|pythonhosted|npmjs|crates|rubygems|conda)" + r"\.(org|io|com)"),
    "an index option": re.compile(r"--(extra-)?index" + r"-url|--find" + r"-links|trusted" + r"-host"),
}


def files():
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0 and listed.stdout:
        found = (ROOT / name for name in listed.stdout.splitlines())
    else:
        found = ROOT.rglob("*")
    for file in found:
        if file.is_file() and not LEFT_OUT & {*file.relative_to(ROOT).parts[:-1]}:
            yield file


def test_nothing_names_a_machine_or_a_package_host():
    hits = []
    for file in files():
        try:
            lines = file.read_text().splitlines()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(lines, 1):
            hits += [
                f"{file.relative_to(ROOT)}:{number}: {what}: {line.strip()[:80]}"
                for what, pattern in FORBIDDEN.items()
                if pattern.search(line)
            ]
    assert not hits, "\n".join(hits)
