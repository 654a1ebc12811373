"""What tokens cost: arithmetic on a price that was named; electricity only where watts were sampled."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from support import made_runs
from support.locust_runs import starting
from support.made_energy import by_watts, read
from support.made_samples import add
from support.places import SCENARIOS

from loadtest.analyse.figures.cost import Prices, add_cost
from loadtest.analyse.findings.energy_findings import energy_findings
from loadtest.analyse.reports import energy_table
from loadtest.analyse.summary import analyse
from loadtest.errors import ScenarioError
from loadtest.scenario.price import Price

pytestmark = pytest.mark.usefixtures("bare_reports")

Call = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("text", "amount", "currency", "shown"),
    [
        ("2.49", 2.49, "", "2.49"),
        ("2.49EUR", 2.49, "EUR", "2.49 EUR"),
        (" 2.49 EUR ", 2.49, "EUR", "2.49 EUR"),
        ("$.5", 0.5, "$", "0.5 $"),
        ("€1200", 1200.0, "€", "1200 €"),
    ],
)
def test_prices_are_read_with_their_currency(text: str, amount: float, currency: str, shown: str) -> None:
    price = Price.parse(text, "--price-per-hour")
    assert (price.amount, price.currency, price.written(price.amount)) == (amount, currency, shown)


@pytest.mark.parametrize("text", ["", "free", "0", "-1", "1e3", "2,49", "$1$", "1 2", "nan", "EUROS 3"])
def test_a_price_that_is_none_is_a_sentence(text: str) -> None:
    with pytest.raises(ScenarioError, match="--price-per-kwh must be a price above 0"):
        Prices.asked(None, text)


def test_an_hours_price_is_spread_over_the_tokens_of_an_hour(tmp_path: Path) -> None:
    made_runs.make(tmp_path / "run", users=(1, 4))
    summary = analyse(tmp_path / "run").summary
    add_cost(summary, Prices.asked("3.60EUR", None))
    for level in summary["levels"]:
        output, prompts = level["output_tokens_per_s"], level["input_tokens_per_s"]
        cost = level["cost_by_hour"]
        assert cost["per_million_output_tokens"] == pytest.approx(0.001 / output * 1e6)
        assert cost["per_million_tokens"] == pytest.approx(0.001 / (output + prompts) * 1e6)
        assert cost["per_1000_requests"] == pytest.approx(0.001 / level["requests_per_s"] * 1e3)
        assert "cost_by_kwh" not in level
    (finding,) = energy_findings(summary)
    assert finding.startswith("At 3.60 EUR an hour, a million output tokens cost ")
    assert finding.endswith("at 1 stream.")
    assert "all of the price put on output tokens" in finding.evidence
    grid = energy_table.energy_table(summary)
    assert grid is not None
    assert "1 M output tokens, at 3.60 EUR an hour" in grid.heads
    assert "energy not measured because" not in grid.heads  # each level said it, and the table of the run


def test_electricity_without_watts_is_not_measured_and_with_them_is_joules_times_price(tmp_path: Path) -> None:
    path = tmp_path / "run"
    made_runs.make(path, users=(1, 4, 8))
    prices = Prices.asked(None, "0.36")
    summary = analyse(path).summary
    add_cost(summary, prices)
    assert summary["levels"][0]["cost_by_kwh"] is None
    grid = energy_table.energy_table(summary)
    assert grid is not None
    assert "energy not measured because" in grid.heads
    assert [str(each) for each in energy_findings(summary)] == [
        "What electricity costs was not measured: watts were not sampled: loadtest run --monitor nvidia, dcgm=URL or rapl."
    ]
    add(path, "nvidia", read(path, by_watts))
    summary = analyse(path).summary
    add_cost(summary, prices)
    for level in summary["levels"]:
        joules = level["energy"]["joules_per_output_token"]
        assert level["cost_by_kwh"]["per_million_output_tokens"] == pytest.approx(joules * 1e6 / 3.6e6 * 0.36)
    assert "At 0.36 a kWh, a million output tokens cost " in "\n".join(energy_findings(summary))


def test_a_price_of_the_run_is_kept_and_a_price_of_the_report_wins(
    tmp_path: Path, loadtest: Call, simulated_url: str
) -> None:
    path, file = tmp_path / "run", tmp_path / "priced.toml"
    file.write_text("price_per_hour = 2.125\nconcurrency = [1]\nrequests = 5\noutput_tokens = [8]\n")
    code, _, err = loadtest("run", file, simulated_url, "--no-report", "--out", path)
    assert code in (0, 3), err
    assert hours_price(path) == (2.125, "")
    assert orjson.loads((path / "run.json").read_bytes())["scenario"]["price_per_hour"] == "2.125"
    for given, price in (([], (2.125, "")), (["--price-per-hour", "$4"], (4.0, "$")), ([], (2.125, ""))):
        loadtest("report", path, *given)
        assert hours_price(path) == price
    code, _, err = loadtest("run", file, simulated_url, "--price-per-kwh", "x", "--out", tmp_path / "none")
    assert code == 2
    assert err.endswith("price_per_kwh must be a price above 0 like 2.49, 2.49EUR or $2.49, not 'x'.\n")


def hours_price(path: Path) -> tuple[float, str]:
    """Return the price of an hour that a run's first level was reckoned with."""
    cost = orjson.loads((path / "summary.json").read_bytes())["levels"][0]["cost_by_hour"]
    return cost["price_per_hour"], cost["currency"]


def test_under_locust_prices_are_options_and_the_end_says_what_tokens_cost(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, simulated_url: str
) -> None:
    with starting(tmp_path_factory) as start:
        run = start(SCENARIOS / "chat.py", "-u", "1", "-t", "3s", "--host", simulated_url, "--price-per-hour", "2.5EUR")
        assert run.code in (0, 3), run.said
        assert run.facts["scenario"]["price_per_hour"] == "2.5EUR"
    made_runs.make(tmp_path / "run", users=(1, 4))
    facts = orjson.loads((tmp_path / "run" / "run.json").read_bytes())
    facts["scenario"]["price_per_hour"] = "2.5EUR"
    (tmp_path / "run" / "run.json").write_bytes(orjson.dumps(facts))
    code = (
        "from loadtest.users.results.console import verdict_reasons_and_cost as ending\n"
        "from loadtest.run_folder import RunFolder\nfrom pathlib import Path\n"
        "print(*ending(RunFolder.open(Path('run')))[2])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("At 2.50 EUR an hour, a million output tokens cost "), done.stderr


def test_the_report_says_it_everywhere(tmp_path: Path, loadtest: Call) -> None:
    path = tmp_path / "run"
    made_runs.make(path, users=(1, 4, 8))
    add(path, "nvidia", read(path, by_watts))
    code, out, err = loadtest("report", path, "--price-per-hour", "2EUR", "--price-per-kwh", "0.3EUR")
    assert code in (0, 3), err
    words = " ".join(out.split())
    assert "An output token takes" in words
    assert "At 2.00 EUR an hour, a million output tokens cost" in words
    for name in ("report.md", "report.html"):
        page = (path / name).read_text()
        assert "Energy and cost" in page
        assert "At 0.3 EUR a kWh" in page
    kept = orjson.loads((path / "summary.json").read_bytes())["levels"][0]
    assert kept["cost_by_hour"]["currency"] == "EUR"
    assert kept["energy"]["by"] == "samples of watts"
    code, _, err = loadtest("report", path, "--price-per-hour", "cheap")
    assert code == 2
    assert err == "loadtest: --price-per-hour must be a price above 0 like 2.49, 2.49EUR or $2.49, not 'cheap'.\n"
