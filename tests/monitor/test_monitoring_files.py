"""scenarios/monitoring: every query of the dashboard against a real Prometheus, and what the files must not do."""

from __future__ import annotations

import dataclasses
import ipaddress
import itertools
import json
import math
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from support.exporter import Exporter, eventually
from support.places import SCENARIOS
from support.prometheus_server import INSTALLED, Prometheus, prometheus, promtool

from loadtest.monitor.prometheus import KNOWN_METRICS

FILES = SCENARIOS / "monitoring"
DASHBOARD = FILES / "grafana" / "dashboards" / "loadtest.json"
COLUMNS = 24  # of Grafana's grid
ENOUGH_S = 40  # what is not there by then does not come

needs_prometheus = pytest.mark.skipif(not INSTALLED, reason="Prometheus is not installed (Debian: prometheus)")

# The pages of servers that are not here, in the form their own give.
DCGM = """# HELP DCGM_FI_DEV_GPU_UTIL GPU utilization (in %).
# TYPE DCGM_FI_DEV_GPU_UTIL gauge
DCGM_FI_DEV_GPU_UTIL{gpu="0",UUID="GPU-0",device="nvidia0",modelName="made for a test",Hostname="h"} 97
# HELP DCGM_FI_DEV_FB_USED Framebuffer memory used (in MiB).
# TYPE DCGM_FI_DEV_FB_USED gauge
DCGM_FI_DEV_FB_USED{gpu="0",UUID="GPU-0",device="nvidia0",modelName="made for a test",Hostname="h"} 43000
# HELP DCGM_FI_DEV_POWER_USAGE Power draw (in W).
# TYPE DCGM_FI_DEV_POWER_USAGE gauge
DCGM_FI_DEV_POWER_USAGE{gpu="0",UUID="GPU-0",device="nvidia0",modelName="made for a test",Hostname="h"} 301.5
"""
VLLM = """# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 4.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="m"} 3.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0",model_name="m"} 4096.0
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{engine="0",model_name="m"} 812.0
"""


def _yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def _panels() -> list[dict[str, Any]]:
    panels: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return panels


@dataclasses.dataclass(frozen=True, slots=True)
class Query:
    """One target of a panel, its variables replaced as Grafana does at a scrape a second."""

    panel: str
    expr: str

    def __str__(self) -> str:
        return f"{self.panel}: {self.expr}"


def _queries() -> list[Query]:
    found = []
    for panel in _panels():
        for target in panel.get("targets", ()):
            step = int(target.get("interval", "1s").removesuffix("s"))  # its "min step" stands for the scrape interval
            expr = target["expr"].replace("$__rate_interval", f"{4 * step}s").replace("$__range", "10m")
            expr = expr.replace('"$name"', '".*"').replace('"$job"', '".+"')
            assert "$" not in expr, expr
            found.append(Query(panel["title"], expr))
    assert found
    return found


def _metrics(expr: str) -> set[str]:
    """Return the names of the metrics that an expression reads: what is no function, keyword, label or duration."""
    bare = re.sub(r'\{[^}]*\}|\[[^]]*\]|"[^"]*"|\bby \([^)]*\)', " ", expr)
    return set(re.findall(r"\b[A-Za-z_][\w:]*\b(?!\s*\()", bare)) - {"or"}


# --- against a real Prometheus ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scraped(simulated_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A real Prometheus with prometheus.yml, its targets replaced: a run in progress, its server, two made pages.

    The run lasts for as long as it is needed: its page, like any, is gone with it.
    """
    folder = tmp_path_factory.mktemp("monitoring")
    dcgm, vllm = Exporter(), Exporter()
    dcgm.body, vllm.body = DCGM.encode(), VLLM.encode()
    load = ["--url", simulated_url, "--concurrency", "6", "--output-tokens", "48", "--duration", "60"]
    command = [sys.executable, "-m", "loadtest", "run", *load, "--metrics-port", "0", "--out", str(folder / "run")]
    try:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
            try:
                with prometheus(folder, _config(folder, _announced(run), dcgm, vllm, simulated_url)) as server:
                    yield server
            finally:
                run.terminate()
    finally:
        dcgm.close()
        vllm.close()


def _announced(run: subprocess.Popen[str]) -> str:
    assert run.stdout is not None
    said = []
    for line in run.stdout:
        said.append(line)
        if found := re.search(r"http://(127\.0\.0\.1:\d+)/metrics", line):
            return found[1]
    raise AssertionError("the run named no page of metrics: " + "".join(said))


def _config(folder: Path, run: str, dcgm: Exporter, vllm: Exporter, simulated_url: str) -> str:
    config = _yaml(FILES / "prometheus.yml")
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    jobs["loadtest"]["static_configs"][0]["targets"] = [run]
    jobs["dcgm"]["static_configs"][0]["targets"] = [_host(dcgm.url)]
    (folder / "targets").mkdir()
    (folder / "targets" / "server.yml").write_text(
        yaml.safe_dump([{"targets": [_host(simulated_url), _host(vllm.url)]}])
    )
    return str(yaml.safe_dump(config))


def _host(url: str) -> str:
    return url.removeprefix("http://").partition("/")[0]


@needs_prometheus
def test_every_query_of_the_dashboard_returns_data(scraped: Prometheus) -> None:
    started, missing = time.monotonic(), dict.fromkeys(_queries())

    def all_there() -> bool:
        for query in tuple(missing):
            if any(math.isfinite(float(one["value"][1])) for one in scraped.query(query.expr)):
                del missing[query]
        return not missing or time.monotonic() > started + ENOUGH_S

    eventually(all_there)
    assert not missing, "no data for\n" + "\n".join(map(str, missing))


@needs_prometheus
def test_every_metric_of_the_dashboard_is_on_a_page_that_loadtest_knows(scraped: Prometheus) -> None:
    started, missing = time.monotonic(), set[str]()

    def all_there() -> bool:
        asked = {"match[]": '{job="loadtest"}'}
        answer = httpx.get(f"{scraped.url}/api/v1/label/__name__/values", params=asked, trust_env=False).json()
        known = {name for names in KNOWN_METRICS.values() for name in names} | set(answer["data"]) | {"up"}
        missing.clear()
        missing.update(name for query in _queries() for name in _metrics(query.expr) - known)
        return not missing or time.monotonic() > started + ENOUGH_S

    eventually(all_there)
    assert not missing
    assert all(_metrics(query.expr) for query in _queries())


@needs_prometheus
def test_the_table_of_levels_names_the_level(scraped: Prometheus) -> None:
    queries = [query for query in _queries() if query.panel == "Each level so far"]
    assert len(queries) == 10
    for query in queries:
        eventually(lambda expr=query.expr: bool(scraped.query(expr)))  # type: ignore[misc]
        (one, *_) = scraped.query(query.expr)
        assert re.fullmatch(r"6 streams · \d+ in · 48 out", one["metric"]["name"]), query


# --- the files -------------------------------------------------------------------------------------------------------


def test_panels_lie_side_by_side_and_say_what_they_show() -> None:
    panels = _panels()
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    assert all(place["x"] >= 0 and place["x"] + place["w"] <= COLUMNS for place in places)
    for one, other in itertools.combinations(places, 2):
        apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart_x or apart_y, (one, other)
    assert sum(place["w"] * place["h"] for place in places) == COLUMNS * max(
        p["y"] + p["h"] for p in places
    )  # no holes
    for panel in panels:
        assert panel["title"]
        if panel["type"] == "row":
            continue
        assert len(panel["description"]) > 40, panel["title"]
        if panel["type"] == "timeseries":
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
            legends = [target["legendFormat"] for target in panel["targets"]]
            assert all(legends), panel["title"]
            assert len(set(legends)) == len(legends), panel["title"]


def test_an_override_or_a_renamed_column_names_something_that_is_there() -> None:
    for panel in _panels():
        columns = {f"Value #{target['refId']}" for target in panel.get("targets", ())} | {"Time", "Value", "name"}
        columns |= {"__name__", "instance", "job", "run", "model", "url", "dialect", "driver", "simulated"}
        names = {target.get("legendFormat") for target in panel.get("targets", ())}
        for transformation in panel.get("transformations", ()):
            options = transformation["options"]
            assert {*options.get("renameByName", {}), *options.get("excludeByName", {})} <= columns, panel["title"]
            names |= set(options.get("renameByName", {}).values())
        for override in panel.get("fieldConfig", {}).get("overrides", ()):
            assert override["matcher"]["options"] in names, panel["title"]


def test_the_dashboard_finds_its_data_source_and_its_variables() -> None:
    text = DASHBOARD.read_text()
    dashboard = json.loads(text)
    (source,) = _yaml(FILES / "grafana/provisioning/datasources/prometheus.yml")["datasources"]
    variables = {one["name"]: one for one in dashboard["templating"]["list"]}
    assert variables["datasource"]["current"]["value"] == source["uid"]
    assert all(target["datasource"]["uid"] == "${datasource}" for p in _panels() for target in p.get("targets", ()))
    builtin = {"__rate_interval", "__range", "__all"}
    assert set(re.findall(r"\$\{?(\w+)", text)) == variables.keys() | builtin
    scrape = _yaml(FILES / "prometheus.yml")["global"]["scrape_interval"]
    assert (
        source["jsonData"]["timeInterval"] == scrape
    )  # else $__rate_interval is shorter than two scrapes, or too long


@needs_prometheus
def test_promtool_takes_the_configuration() -> None:
    made = promtool("check", "config", str(FILES / "prometheus.yml"))
    assert (made.returncode, made.stderr) == (0, b""), made.stdout
    assert b"WARNING" not in made.stdout


def test_nothing_listens_or_is_scraped_beyond_loopback() -> None:
    services = _yaml(FILES / "compose.yml")["services"]
    for service in services.values():
        assert service["network_mode"] == "host"  # what it says that it listens on is what it listens on
        assert "ports" not in service
    grafana = services["grafana"]["environment"]
    ports = {
        "dcgm-exporter": _loopback(services["dcgm-exporter"]["environment"]["DCGM_EXPORTER_LISTEN"]),
        "prometheus": _loopback(_option(services["prometheus"]["command"], "--web.listen-address")),
        "grafana": _loopback(f"{grafana['GF_SERVER_HTTP_ADDR']}:{grafana['GF_SERVER_HTTP_PORT']}"),
    }
    assert services.keys() == ports.keys()
    jobs = {job["job_name"]: job for job in _yaml(FILES / "prometheus.yml")["scrape_configs"]}
    scraped = {
        name: [_loopback(target) for group in job.get("static_configs", ()) for target in group["targets"]]
        for name, job in jobs.items()
    }
    assert scraped == {"loadtest": [9464], "dcgm": [ports["dcgm-exporter"]], "server": []}
    assert jobs["server"]["file_sd_configs"][0]["files"] == ["targets/*.yml"]
    for path in (FILES / "targets").iterdir():
        assert all(_loopback(target) for group in _yaml(path) for target in group["targets"])
    (source,) = _yaml(FILES / "grafana/provisioning/datasources/prometheus.yml")["datasources"]
    assert _loopback(source["url"].removeprefix("http://")) == ports["prometheus"]


def _loopback(address: str) -> int:
    host, _, port = address.rpartition(":")
    assert ipaddress.ip_address(host).is_loopback, address
    return int(port)


def _option(command: list[str], name: str) -> str:
    (value,) = (word.partition("=")[2] for word in command if word.startswith(f"{name}="))
    return value


def test_no_password_is_written_down_and_none_is_the_default() -> None:
    secret = re.compile("PASSWORD|SECRET|TOKEN|KEY")
    services = _yaml(FILES / "compose.yml")["services"]
    kept = [item for one in services.values() for item in one.get("environment", {}).items() if secret.search(item[0])]
    # The form ":?" makes compose refuse to start where the variable is missing or empty.
    ((name, value),) = kept
    assert name == "GF_SECURITY_ADMIN_PASSWORD"
    assert re.fullmatch(r"\$\{GRAFANA_PASSWORD:\?[^}]+\}", value)
    grafana = services["grafana"]["environment"]
    assert (grafana["GF_AUTH_ANONYMOUS_ENABLED"], grafana["GF_USERS_ALLOW_SIGN_UP"]) == ("false", "false")
    given = re.compile(r"GRAFANA_PASSWORD=(?!\S*[…$])\S")  # in a command that a reader would copy
    assert not [path for path in FILES.rglob("*") if path.is_file() and given.search(path.read_text())]


def test_images_are_pinned_and_what_is_mounted_is_there() -> None:
    for service in _yaml(FILES / "compose.yml")["services"].values():
        assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+[\w.-]*", service["image"])
        for volume in service.get("volumes", ()):
            if volume.startswith("."):
                assert (FILES / volume.split(":")[0]).exists(), volume
                assert volume.endswith(":ro"), volume
    (provider,) = _yaml(FILES / "grafana/provisioning/dashboards/loadtest.yml")["providers"]
    grafana = _yaml(FILES / "compose.yml")["services"]["grafana"]
    mounted = dict(reversed(volume.split(":")[:2]) for volume in grafana["volumes"])
    assert (FILES / mounted[provider["options"]["path"]] / "loadtest.json").samefile(DASHBOARD)
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (FILES / mounted[str(home.parent)] / home.name).samefile(DASHBOARD)
