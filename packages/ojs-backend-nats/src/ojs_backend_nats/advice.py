"""What an operator should know about the settings of NATS."""

from __future__ import annotations

from ojs_backend_nats.config import NATSConfig
from ojs_backend_nats.link import Link
from ojs_backend_nats.stream import Stream
from ojs_core.clock import skew_warnings, wall_ms

SMALL_PAYLOAD = 1 << 19


async def warnings(config: NATSConfig, link: Link, stream: Stream) -> list[str]:
    """Return what can be seen from here, in sentences."""
    found: list[str] = []
    if config.replicas == 1:
        found.append(
            "OJS_NATS_REPLICAS=1: one NATS server holds everything. It answers before its disk has the change, and "
            "flushes each sync_interval (2 minutes by default): a power loss may take what was answered since. Set "
            "`sync_interval: always` in its jetstream block, or use 3 servers."
        )
    asked_at = wall_ms()
    info = await stream.info()
    found += skew_warnings(info.ts.timestamp() * 1000, asked_at)
    if info.config.storage != "file":
        found.append("The stream is kept in memory: it ends with the NATS servers that hold it.")
    if link.part_max < SMALL_PAYLOAD:
        found.append(
            f"NATS takes messages of {link.part_max} bytes only (max_payload): each larger change is cut into several."
        )
    return found
