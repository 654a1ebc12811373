"""The processors' energy counters: which are added up, where they begin again, and who may not read them."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.monitor.process import SourceSpec, make_source
from loadtest.monitor.rapl import Rapl
from loadtest.monitor.sampler import SourceError

ZONES = {
    "intel-rapl:0": ("package-0", 1_000_000),
    "intel-rapl:0:0": ("core", 900_000),
    "intel-rapl:0:1": ("dram", 200_000),
    "intel-rapl:1": ("package-1", 5_000_000),
    "intel-rapl:2": ("psys", 70_000_000),
}
RANGE = 10_000_000


@pytest.fixture
def powercap(tmp_path: Path) -> Path:
    """A machine of two packages, as the kernel shows it; the control type has no counter of its own."""
    (tmp_path / "intel-rapl").mkdir()
    for zone, (name, used) in ZONES.items():
        place = tmp_path / zone
        place.mkdir()
        (place / "name").write_text(f"{name}\n")
        (place / "energy_uj").write_text(f"{used}\n")
        (place / "max_energy_range_uj").write_text(f"{RANGE}\n")
    return tmp_path


def use(place: Path, zone: str, microjoules: int) -> None:
    counter = place / zone / "energy_uj"
    counter.write_text(f"{(int(counter.read_text()) + microjoules) % RANGE}\n")


def test_packages_and_their_memory_are_added_up_and_nothing_twice(powercap: Path) -> None:
    source = Rapl(powercap)
    assert source.open() == {"zones": ["package-0", "dram", "package-1"]}
    assert source.sample() == {"energy": 0.0}
    for zone in ZONES:
        use(powercap, zone, 1_000_000)
    assert source.sample() == {"energy": 3.0}


def test_a_counter_that_began_again_goes_on(powercap: Path) -> None:
    source = Rapl(powercap)
    source.open()
    for _ in range(3):
        use(powercap, "intel-rapl:1", 6_000_000)
        used = source.sample()["energy"]
    assert used == pytest.approx(18.0)


def test_a_counter_of_root_alone_is_said(powercap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Path.read_text

    def forbidden(path: Path) -> str:
        if path.name == "energy_uj":
            raise PermissionError
        return read(path)

    monkeypatch.setattr(Path, "read_text", forbidden)  # root, as whom tests may run, may read everything
    with pytest.raises(SourceError, match="by root alone"):
        Rapl(powercap).open()


def test_a_machine_without_counters_is_said(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="shows no energy counters"):
        Rapl(tmp_path / "none").open()
    assert make_source(SourceSpec("rapl")).name == "rapl"
