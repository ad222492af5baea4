"""What was measured, as a table for people and as JSON for programs."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from phases import Audit, Phase

COLUMNS = (
    "phase",
    "jobs",
    "jobs/s",
    "requests/s",
    "p50",
    "p90",
    "p99",
    "max ms",
    "of ceiling",
    "CPU s/10k",
    "client CPU",
)


def percentile(values: list[float], share: float) -> float:
    """Return the smallest value that at least `share` of all values do not exceed; 0 if there are none."""
    ordered = sorted(values)
    return ordered[max(0, ceil(share * len(ordered)) - 1)] if ordered else 0.0


@dataclass
class Target:
    """What a cost is measured against. `measured` is None when this run did not measure it."""

    name: str
    least: float
    measured: float | None
    hint: str = ""

    def line(self) -> str:
        """Return it as one line."""
        if self.measured is None:
            return f"  {self.name:45} {'not measured':>12}   at least {self.least:g}   {self.hint}"
        verdict = "met" if self.measured >= self.least else "MISSED"
        return f"  {self.name:45} {self.measured:12.2f}   at least {self.least:<5g} {verdict}   {self.hint}"


@dataclass
class Report:
    """A whole run. `facts` are names and values in the order in which they are printed."""

    facts: dict[str, str] = field(default_factory=dict)
    phases: list[Phase] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    audits: list[Audit] = field(default_factory=list)
    ceiling: Phase | None = None

    @property
    def errors(self) -> list[str]:
        """Everything that went wrong on any server."""
        return [error for audit in self.audits for error in audit.errors]

    def counts(self) -> dict[str, int]:
        """Return the sums of the audits."""
        return {
            "enqueued": sum(len(audit.enqueued) for audit in self.audits),
            "acked": sum(len(audit.acked) for audit in self.audits),
            "lost": sum(audit.lost for audit in self.audits),
            "twice": sum(audit.twice for audit in self.audits),
            "unknown": sum(audit.unknown for audit in self.audits),
            "errors": len(self.errors),
        }

    @property
    def fine(self) -> bool:
        """Whether every job came out exactly once, and every answer was as it should be."""
        return all(audit.fine for audit in self.audits)

    def text(self) -> str:
        """Return the tables."""
        parts = [
            "\n".join(f"{name:12} {value}" for name, value in self.facts.items()),
            _table([COLUMNS, *(row for phase in self.phases for row in self._rows(phase))]),
            "\n".join(["Targets", *(target.line() for target in self.targets)]),
            "Audit: " + ", ".join(f"{name} {count:,}" for name, count in self.counts().items()),
        ]
        if self.errors:
            parts.append("\n".join(["First errors", *(f"  {error}" for error in self.errors[:5])]))
        return "\n\n".join(parts)

    def as_json(self) -> dict[str, Any]:
        """Return the same for programs."""
        return {
            "facts": self.facts,
            "phases": [self._phase_json(phase) for phase in self.phases],
            "targets": [vars(target) for target in self.targets],
            "audit": self.counts(),
            "first_errors": self.errors[:5],
        }

    def _of_ceiling(self, phase: Phase) -> float | None:
        return None if self.ceiling is None else phase.requests_per_s / self.ceiling.requests_per_s

    def _rows(self, phase: Phase) -> list[tuple[str, ...]]:
        (first, values), *others = phase.timings_ms.items()
        share, cpu = self._of_ceiling(phase), phase.cpu_s_per_10k
        rows = [
            (
                f"{phase.name} ({first})" if others else phase.name,
                f"{phase.jobs:,}",
                f"{phase.jobs_per_s:,.0f}",
                f"{phase.requests_per_s:,.0f}",
                *_percentiles(values),
                "-" if share is None else f"{share:.0%}",
                "-" if cpu is None else f"{cpu:.2f}",
                f"{phase.client_cpu_s / phase.seconds:.0%}" if phase.seconds else "-",
            )
        ]
        rows += [(f"  {kind}", "", "", "", *_percentiles(values), "", "", "") for kind, values in others]
        return rows

    def _phase_json(self, phase: Phase) -> dict[str, Any]:
        return {
            "name": phase.name,
            "jobs": phase.jobs,
            "seconds": phase.seconds,
            "jobs_per_s": phase.jobs_per_s,
            "requests": phase.requests,
            "requests_per_s": phase.requests_per_s,
            "of_ceiling": self._of_ceiling(phase),
            "server_cpu_s": phase.server_cpu_s,
            "server_cpu_s_per_10k_jobs": phase.cpu_s_per_10k,
            "client_cpu_s": phase.client_cpu_s,
            "timings_ms": {
                kind: {
                    "count": len(values),
                    **{f"p{share:.0%}"[:-1]: percentile(values, share) for share in (0.5, 0.9, 0.99)},
                    "max": max(values, default=0.0),
                }
                for kind, values in phase.timings_ms.items()
            },
        }


def _percentiles(values: list[float]) -> tuple[str, ...]:
    return (*(f"{percentile(values, share):.2f}" for share in (0.5, 0.9, 0.99)), f"{max(values, default=0.0):.1f}")


def _table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join(line.rstrip() for line in lines)


def machine() -> str:
    """Name the interpreter and what it runs on."""
    load = f", load {os.getloadavg()[0]:.1f} before the run" if hasattr(os, "getloadavg") else ""
    return (
        f"{platform.python_implementation()} {platform.python_version()}, {os.cpu_count()} cores, "
        f"{platform.system()} {platform.machine()}{load}"
    )
