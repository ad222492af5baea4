"""House rules that no other tool checks: the few that cost more when broken unnoticed than a test does."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from ojs_api.docs import PART, PARTS
from ojs_core.backend import Backend

ROOT = Path(__file__).parent.parent
PACKAGES = sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml"))
CORE = ROOT / "packages/ojs-core/src/ojs_core"
CONTRACT = CORE / "testing/contract"

MODULE_LINES_MAX = 500
TEST_LINES_MAX = 700
LONGER_FILES: dict[str, int] = {
    "tests/core/test_cron.py": 781,
}
"""Files past their limit, with the length they may have. This list only shrinks, and so do its numbers."""

STORE_NAMES = re.compile(r"dynamo|kafka|nats(?![a-z])|postgres|redis|sqlite|sqs", re.IGNORECASE)
STORES_NAMED = {
    "settings.py": {"sqlite"},
    "testing/conformance/servers.py": {"OJS_SQLITE_PATH"},
}
"""Where core may name a store: the default backend, and the file that each server of a conformance run gets."""


def python_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def line_count(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_files_are_short_enough_to_read() -> None:
    sources = [path for package in PACKAGES for path in python_files(package / "src")]
    limits = dict.fromkeys(sources, MODULE_LINES_MAX) | dict.fromkeys(python_files(ROOT / "tests"), TEST_LINES_MAX)
    too_long = {
        named(path): line_count(path)
        for path, limit in limits.items()
        if line_count(path) > LONGER_FILES.get(named(path), limit)
    }
    assert not too_long, "split these; the list of exceptions does not grow"


def test_the_exceptions_to_the_line_limits_are_still_needed() -> None:
    for name in LONGER_FILES:
        usual = TEST_LINES_MAX if name.startswith("tests/") else MODULE_LINES_MAX
        assert usual < line_count(ROOT / name), f"{name} is short enough now: take it off the list"


def test_the_contract_suite_uses_every_backend_method() -> None:
    """A rule that is not in the contract does not exist."""
    used = {
        node.attr
        for path in python_files(CONTRACT)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
    }
    assert Backend.__abstractmethods__ - used == set()


def words_of_code(path: Path) -> Iterator[str]:
    """Yield the names and texts of a module, its docstrings left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if id(node) not in prose:
                yield text
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.alias(name=name):
                yield name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.ImportFrom(module=str(name)) | ast.keyword(arg=str(name)):
                yield name


@pytest.mark.parametrize("path", python_files(CORE), ids=lambda path: path.relative_to(CORE).as_posix())
def test_core_names_no_store(path: Path) -> None:
    """Neither does the contract suite, which is part of core: no test may ask which backend it runs on."""
    allowed = STORES_NAMED.get(path.relative_to(CORE).as_posix(), set())
    found = {word for word in words_of_code(path) if STORE_NAMES.search(word)}
    assert found <= allowed


def test_no_test_sleeps() -> None:
    """A sleep is too long on a quick machine and too short on a busy one. Yielding once, `sleep(0)`, is no sleep."""
    found = []
    for path in [*python_files(ROOT / "tests"), *python_files(CONTRACT)]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Attribute(attr="sleep") | ast.Name(id="sleep"), args=[ast.Constant(value=0)]):
                    pass
                case ast.Call(func=ast.Attribute(attr="sleep") | ast.Name(id="sleep")):
                    found.append(f"{named(path)}:{node.lineno}")
    assert not found, "wait for the event itself, or move the clock"


def test_all_packages_have_one_version_and_pin_each_other_to_it() -> None:
    projects = [
        tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        for folder in (ROOT, *PACKAGES)
    ]
    versions = {project["name"]: project["version"] for project in projects}
    assert len(set(versions.values())) == 1, versions
    for project in projects:
        ours = [requirement for requirement in project["dependencies"] if requirement.startswith("ojs-")]
        for requirement in ours:
            name, _, version = requirement.partition("==")
            assert version == versions[name], f"{project['name']} requires {requirement}"


def test_constraints_are_exact_versions_and_nothing_else() -> None:
    """No address of an index, no hash: who installs chooses where from."""
    pin = re.compile(r"[a-z0-9.-]+==[0-9][a-z0-9.]*( ; [^;]+)?")
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not pin.fullmatch(line)] == []


def test_readme_and_ci_run_the_tests_with_the_same_command() -> None:
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    (command,) = re.findall(r"^TESTS='(.+)'$", script, re.MULTILINE)
    assert command in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()


def test_every_part_that_is_generated_is_in_the_documentation() -> None:
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "docs").rglob("*.md")]
    assert sorted(found["name"] for text in texts for found in PART.finditer(text)) == sorted(PARTS)


def test_no_lock_file_is_tracked() -> None:
    """`uv.lock` names the index that its author used; constraints.txt does not."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    tracked = subprocess.run(["git", "ls-files", "*.lock"], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S607
    assert tracked.stdout == ""
