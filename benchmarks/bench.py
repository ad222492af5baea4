"""Measures a real server from outside: rates, latencies, costs; and audits that every job came out exactly once.

    python benchmarks/bench.py [--backend sqlite] [--jobs 20000] [--finished 200000] [--env KEY=VALUE] [--json FILE]

Each phase keeps `--connections` connections busy, one request at a time on each. The ceiling is the same server around
a handler that does nothing (`ceiling.py`); as machines drift, ceiling, single enqueues and batches take turns, and the
ratios are medians over the rounds. Exit code 1: a job was lost, came twice, or an answer was wrong. A missed target is
only printed: it may be the machine's fault.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter

from phases import Load, Phase, loading, merged
from report import Report, Target, machine, percentile

from servers import CEILING, Server, ServerFailedError, Servers

BATCH_TARGET = 15.0
"""Jobs per second in batches over jobs per second one by one."""
CEILING_TARGET = 0.60
"""Single enqueues over the ceiling, with durability on."""
FINISHED_TARGET = 0.85
"""Drain of fresh jobs with `--finished` jobs in the store over the same with none."""
WARM_UP = 300
LONG_POLLS = 200
SYNCS = 50


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="bench.py", description="Measure an Open Job Spec server from outside.")
    parser.add_argument("--backend", default="sqlite", help="store to measure (sqlite)")
    parser.add_argument("--jobs", type=int, default=20_000, metavar="N", help="jobs per phase (20000)")
    parser.add_argument("--connections", type=int, default=16, metavar="N", help="connections, at least 2 (16)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="how often phases take turns (3)")
    parser.add_argument("--finished", type=int, default=0, metavar="N", help="also drain with N finished jobs (0: no)")
    parser.add_argument("--env", action="append", default=[], metavar="KEY=VALUE", help="setting of the server")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    options = parser.parse_args(arguments)
    if min(options.jobs, options.rounds) < 1 or options.connections < 2:
        parser.error("--jobs and --rounds must be at least 1, --connections at least 2")
    if any("=" not in text for text in options.env):
        parser.error("--env takes KEY=VALUE")
    return options


def environ_of(options: argparse.Namespace) -> dict[str, str]:
    """Return the settings that `--env` adds."""
    return dict(text.split("=", 1) for text in options.env)


async def run(options: argparse.Namespace, servers: Servers) -> Report:
    """Measure everything."""
    report = Report()
    report.facts["measured on"] = machine()
    report.facts["server"] = " ".join([f"backend {options.backend}", *options.env])
    report.facts["disk"] = f"a sync of 4 KiB takes {sync_ms(servers.folder):.2f} ms (median)"
    starts = [(await servers.start()) for _ in range(options.rounds)]
    for server in starts[1:]:
        server.stop()
    report.facts["start"] = f"{median(server.start_s for server in starts) * 1000:,.0f} ms to the first healthy answer"
    await measure_phases(report, options, starts[0], await servers.start(CEILING))
    await measure_finished(report, options, servers)
    return report


async def measure_phases(report: Report, options: argparse.Namespace, server: Server, idle: Server) -> None:
    """Measure the rates of one server against the ceiling, which `idle` is."""
    rss_before = server.rss_mib()
    rounds = range(options.rounds)
    per_round = max(1, options.jobs // options.rounds)
    async with loading(server, options.connections) as load, loading(idle, options.connections) as idle_load:
        report.audits += [load.audit, idle_load.audit]
        await load.enqueue(min(WARM_UP, options.jobs))
        await idle_load.ceiling(min(WARM_UP, options.jobs))
        ceilings, singles, batches = [], [], []
        for _ in rounds:
            ceilings.append(await idle_load.ceiling(per_round))
            singles.append(await load.enqueue(per_round))
            batches.append(await load.batch(options.jobs))
        idle.stop()
        drained = await load.drain()
        mixed = await load.mixed(options.jobs)
        polled = await load.long_poll(min(LONG_POLLS, options.jobs))
    report.ceiling = merged(ceilings)
    report.phases += [report.ceiling, merged(singles), merged(batches), drained, mixed, polled]
    rss_after = server.rss_mib()
    if rss_before is not None and rss_after is not None:
        report.facts["memory"] = f"{rss_before:.0f} MiB after the start, {rss_after:.0f} MiB after the run (resident)"
    by_cpu = _ratio(singles, ceilings, lambda phase: phase.requests / phase.server_cpu_s if phase.server_cpu_s else 0)
    report.targets += [
        Target(
            "batch / single enqueue, jobs/s", BATCH_TARGET, _ratio(batches, singles, lambda phase: phase.jobs_per_s)
        ),
        Target(
            "single enqueue / ceiling, requests/s",
            CEILING_TARGET,
            _ratio(singles, ceilings, lambda phase: phase.requests_per_s),
            "" if by_cpu is None else f"(per CPU second of the server: {by_cpu:.2f})",
        ),
    ]


async def measure_finished(report: Report, options: argparse.Namespace, servers: Servers) -> None:
    """Measure whether finished jobs slow the drain of fresh ones down."""
    ratio, hint = None, "(try --finished 200000)"
    if options.finished:
        old = await servers.start()
        fresh_drains, old_drains = [], []
        async with loading(old, options.connections) as load:
            report.audits.append(load.audit)
            await load.batch(options.finished)
            await load.drain()
            for _ in range(options.rounds):
                # Its own finished jobs must not add up: each round has an empty store.
                fresh = await servers.start()
                async with loading(fresh, options.connections) as fresh_load:
                    report.audits.append(fresh_load.audit)
                    fresh_drains.append(await _fill_and_drain(fresh_load, options.jobs, "none finished"))
                fresh.stop()
                old_drains.append(await _fill_and_drain(load, options.jobs, f"{options.finished:,} finished"))
        report.phases += [merged(fresh_drains), merged(old_drains)]
        ratio, hint = _ratio(old_drains, fresh_drains, lambda phase: phase.jobs_per_s), ""
    report.targets.append(Target("drain with many finished jobs / with none", FINISHED_TARGET, ratio, hint))


async def _fill_and_drain(load: Load, jobs: int, name: str) -> Phase:
    await load.batch(jobs)
    return await load.drain(name)


def _ratio(over: Sequence[Phase], under: Sequence[Phase], value: Callable[[Phase], float]) -> float | None:
    """Return the median over the rounds of one phase's value by another's, or None if there is none."""
    pairs = [(value(first), value(second)) for first, second in zip(over, under, strict=True)]
    return median(first / second for first, second in pairs) if all(second for _, second in pairs) else None


def sync_ms(folder: Path) -> float:
    """Return how long the disk takes to make 4 KiB durable: the price of every group commit."""
    took_ms = []
    with (folder / "sync").open("wb", buffering=0) as file:
        for _ in range(SYNCS):
            began = perf_counter()
            file.write(b"\0" * 4096)
            os.fsync(file.fileno())
            took_ms.append((perf_counter() - began) * 1000)
    return percentile(took_ms, 0.5)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """Return the fastest event loop there is: the client is to cost little."""
    try:
        import uvloop  # noqa: PLC0415 - not everywhere
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; return the exit code."""
    options = parse_arguments(arguments)
    # Whoever stops the benchmark stops its servers: asyncio turns an interrupt into an orderly end. A shell that starts
    # it in the background has interrupts ignored; then SIGTERM would be too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        with (
            Servers(options.backend, environ_of(options)) as servers,
            asyncio.Runner(loop_factory=loop_factory()) as runner,
        ):
            report = runner.run(run(options, servers))
    except (ServerFailedError, OSError) as error:
        sys.stderr.write(f"bench: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("bench: interrupted\n")
        return 130
    print(report.text())
    if options.json:
        options.json.write_text(json.dumps(report.as_json(), indent=1) + "\n", encoding="utf-8")
    return 0 if report.fine else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
