"""Writes the parts of the documentation that follow from the code: `python -m ojs_api.docs [--check]`.

A part stands in a Markdown file between `<!-- generated: NAME -->` and `<!-- end -->`. With `--check` nothing is
written; the exit code is 1 if a part is out of date.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ojs_core.backend import Capabilities
from ojs_core.lifecycle import TRANSITIONS
from ojs_core.registry import backend_settings, installed_backends, load_backend
from ojs_core.settings import SETTINGS
from ojs_core.variables import Setting

PART = re.compile(r"(<!-- generated: (?P<name>[a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def settings_table(settings: Sequence[Setting] = SETTINGS) -> str:
    """Return settings with their defaults and meanings."""
    rows = [f"| `{setting.variable}` | {_default(setting)} | {setting.meaning} |" for setting in settings]
    return "\n".join(["| variable | default | meaning |", "|---|---|---|", *rows])


def lifecycle_diagram() -> str:
    """Return the transition table as a diagram."""
    arrows = [
        f"    {source} --> {target}: {event}"
        for event, (sources, target) in TRANSITIONS.items()
        for source in sorted(sources)
    ]
    return "\n".join(["```mermaid", "stateDiagram-v2", *arrows, "```"])


def lifecycle_table() -> str:
    """Return the transition table as a table."""
    rows = [
        f"| {event} | {', '.join(sorted(sources))} | {target} |" for event, (sources, target) in TRANSITIONS.items()
    ]
    return "\n".join(["| event | from | to |", "|---|---|---|", *rows])


def backends_table() -> str:
    """Return the installed backends and their capabilities; only those of this repository are in its documentation."""
    fields = [field for field in Capabilities.__struct_fields__ if field != "name"]
    rows = []
    for name in installed_backends():
        capabilities = load_backend(name, {}).capabilities
        rows.append(f"| `{name}` | " + " | ".join(_shown(getattr(capabilities, field)) for field in fields) + " |")
    return "\n".join(["| backend | " + " | ".join(fields) + " |", "|---" * (len(fields) + 1) + "|", *rows])


def _default(setting: Setting) -> str:
    """Return a default as it would be set, so that it can be copied; a long time also as people say it."""
    text = _shown(setting.default)
    if setting.variable.endswith("_MS") and isinstance(setting.default, int):
        for unit, length in (("day", 86_400_000), ("hour", 3_600_000), ("minute", 60_000)):
            count, rest = divmod(setting.default, length)
            if count and not rest:
                return f"{text} ({count} {unit}{'s' if count > 1 else ''})"
    return text


def _shown(value: object) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case None | ():
            return "none"
        case _:
            return str(value)


PARTS: dict[str, Callable[[], str]] = {
    "settings": settings_table,
    "nats-settings": lambda: settings_table(backend_settings("nats")),
    "postgres-settings": lambda: settings_table(backend_settings("postgres")),
    "redis-settings": lambda: settings_table(backend_settings("redis")),
    "sqlite-settings": lambda: settings_table(backend_settings("sqlite")),
    "lifecycle-diagram": lifecycle_diagram,
    "lifecycle-table": lifecycle_table,
    "backends": backends_table,
}


def renew(text: str) -> str:
    """Return a document with its generated parts made anew."""
    return PART.sub(lambda found: f"{found[1]}{PARTS[found['name']]()}\n{found[3]}", text)


def main(arguments: list[str]) -> int:
    """Write or check all documents below `docs/` and the README; return the exit code."""
    stale = []
    for path in [Path("README.md"), *sorted(Path("docs").rglob("*.md"))]:
        text = path.read_text(encoding="utf-8")
        new = renew(text)
        if new == text:
            continue
        stale.append(path)
        if "--check" not in arguments:
            path.write_text(new, encoding="utf-8")
    for path in stale:
        print(f"{path} {'is out of date' if '--check' in arguments else 'renewed'}")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
