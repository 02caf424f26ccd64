"""How the node is watched: [monitoring]."""

from __future__ import annotations

from pydantic import Field

from dicomnode.settings.section import Section


class MonitoringSettings(Section):
    """What monitoring programs read: /metrics (Prometheus), /healthz and /readyz (docs/monitoring.md)."""

    enabled: bool = Field(
        False, description="Whether `serve` answers monitoring programs, in a process of its own."
    )
    bind: str = Field(
        "127.0.0.1",
        description="Address to listen on. "
        "There is no login: beyond this machine let only the monitoring reach it.",
    )
    port: int = Field(
        9108,
        ge=0,
        le=65535,
        description="TCP port to listen on; 0 takes a free one and writes it to monitor.json.",
    )
    silent_s: float = Field(
        60,
        gt=20,
        description="A side that gave no sign of life for so long counts as not running, in seconds; "
        "it gives one every 10.",
    )
