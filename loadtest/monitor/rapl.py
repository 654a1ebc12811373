"""What processors and their memory used, by their own energy counters (RAPL), as Linux shows them in /sys/class/powercap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from loadtest.monitor.sampler import SourceError

POWERCAP = Path("/sys/class/powercap")
COUNTED_ZONES = ("package", "dram")  # cores and built-in graphics lie in their package; psys holds all of them again


class Rapl:
    name = "rapl"

    def __init__(self, place: Path = POWERCAP) -> None:
        self._place = place
        self._zones: list[_Zone] = []

    def open(self) -> dict[str, Any]:
        found = [_Zone(path) for path in sorted(self._place.glob("*-rapl:*")) if _name(path).startswith(COUNTED_ZONES)]
        if not any(zone.name.startswith(COUNTED_ZONES[0]) for zone in found):
            raise SourceError(
                "RAPL: this machine shows no energy counters of its processors; Linux has them for Intel and AMD "
                "(/sys/class/powercap), not in virtual machines."
            )
        self._zones = found
        self.sample()
        return {"zones": [zone.name for zone in found]}

    def sample(self) -> dict[str, Any]:
        """Return the joules since the source was opened, all zones together."""
        return {"energy": sum(zone.joules() for zone in self._zones)}

    def close(self) -> None:
        self._zones = []


class _Zone:
    """One counter: microjoules, from 0 again once it has reached its range."""

    def __init__(self, path: Path) -> None:
        self.name = _name(path)
        self._path = path
        self._range = int(_read(path / "max_energy_range_uj"))
        self._before: int | None = None
        self._used = 0

    def joules(self) -> float:
        now = int(_read(self._path / "energy_uj"))
        if self._before is not None:
            self._used += now - self._before if now >= self._before else now + self._range - self._before
        self._before = now
        return self._used / 1e6


def _name(path: Path) -> str:
    try:
        return (path / "name").read_text().strip()
    except OSError:
        return ""


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except PermissionError:
        raise SourceError(
            f"RAPL: {path} can be read by root alone, as kernels have it since 2020; run `loadtest monitor --source rapl` as root, "
            "into the run folder."
        ) from None
    except OSError as error:
        raise SourceError(f"RAPL: cannot read {path}: {error.strerror}.") from None
