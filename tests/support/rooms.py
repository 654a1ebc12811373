"""The order of the rooms."""

from __future__ import annotations

# the rooms from the ground up: a room imports only those left of it, never one right of it
ORDER = [
    "errors",
    "text",
    "grid",
    "templates",
    "urls",
    "credentials",
    "scenario",
    "reach",
    "records",
    "run_folder",
    "metrics",
    "doubts",
    "histogram",
    "slo",
    "live",
    "workloads",
    "dialects",
    "wire",
    "measure",
    "targets",
    "asyncio_driver",
    "monitor",
    "simulate",
    "memory",
    "analyse",
    "users",
    "library",
    "cli",
]
# inside analyse/: the same, room by room
ANALYSE = [
    "run",
    "figures",
    "server",
    "verdict",
    "whatif",
    "explain",
    "level_summary",
    "summary",
    "findings",
    "comparison",
    "reports",
    "charts",
    "report",
    "dataframes",
]
