"""Whether what watches the service asks for what there is."""

import json
import re
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.servers import find_free_port
from service.app import create_app
from service.operation.access import create_key
from service.settings import Settings
from tests import ROOT
from tests.conftest import serve
from tests.pictures import draw_image, encode
from tests.waiting import wait_until

DIRECTORY = ROOT / "deploy" / "observability"
OF_PROMETHEUS = {"instance", "job"}
"""Labels that Prometheus adds."""
ELSEWHERE = {
    "up",
    "hyperdraw_cuda_allocated_bytes",
    "hyperdraw_cuda_reserved_bytes",
    "hyperdraw_relative_deviation_bucket",
}
"""Of Prometheus itself, of CUDA, and of regressions."""


def read_dashboard() -> dict[str, Any]:
    dashboard: dict[str, Any] = json.loads((DIRECTORY / "grafana" / "dashboards" / "hyperdraw.json").read_text())
    return dashboard


def read_alerts() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((DIRECTORY / "alerts.yml").read_text())["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


EXPRESSIONS = [target["expr"] for panel in read_dashboard()["panels"] for target in panel["targets"]]
EXPRESSIONS += [rule["expr"] for rule in read_alerts()]


@pytest.fixture(scope="module")
def labels(client: httpx.Client) -> dict[str, set[str]]:
    """The labels that each series of the real service has, by its name."""
    picture = encode(draw_image(size=(8, 8)))
    assert client.post("/v1/models/digits/predict", files={"images": picture}).status_code == 200
    found: dict[str, set[str]] = {name: set() for name in ELSEWHERE}
    for family in text_string_to_metric_families(client.get("/metrics").text):
        suffix = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        for name in suffix:
            found.setdefault(family.name + name, set())
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    # These have no series before the first of their kind.
    found["hyperdraw_refused_requests_total"] |= {"model"}
    found["hyperdraw_relative_deviation_bucket"] |= {"model", "le"}
    found["hyperdraw_weights_sent_bytes_total"] |= {"model"}
    found["hyperdraw_symbols_total"] |= {"model"}
    found["hyperdraw_live_networks"] |= {"model"}
    found["hyperdraw_key_requests_total"] |= {"key"}
    found["hyperdraw_key_refused_requests_total"] |= {"key", "quantity"}
    found["hyperdraw_candidate_share"] |= {"model"}
    found["hyperdraw_shadow_inputs_total"] |= {"model"}
    found["hyperdraw_shadow_disagreements_total"] |= {"model", "about"}
    found["hyperdraw_shadow_lost_requests_total"] |= {"model", "reason"}
    found["hyperdraw_feedback_answers_total"] |= {"model"}
    found["hyperdraw_feedback_dropped_answers_total"] |= {"reason"}
    found["hyperdraw_feedback_coverage"] |= {"model", "promised"}
    for name in ("labels", "accuracy", "coverage_alarm"):
        found[f"hyperdraw_feedback_{name}"] |= {"model"}
    for name in ("hyperdraw_first_symbol_seconds_bucket", "hyperdraw_symbol_seconds_bucket"):
        found[name] |= {"model", "le"}
    return found


def find_metrics(expression: str) -> dict[str, set[str]]:
    """The series that PromQL asks for, with the labels that it selects by."""
    text = re.sub(r'"[^"]*"', '""', expression)
    found: dict[str, set[str]] = {}
    for name, selector in re.findall(r"\b((?:hyperdraw|process)_\w+|up)\b(?:\{([^}]*)\})?", text):
        found.setdefault(name, set()).update(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector))
    return found


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_what_is_asked_for_exists(expression: str, labels: dict[str, set[str]]) -> None:
    metrics = find_metrics(expression)
    assert metrics
    for name, selected in metrics.items():
        assert name in labels
        assert selected <= labels[name] | OF_PROMETHEUS
    grouped = {label for group in re.findall(r"(?:by|on) \(([^)]*)\)", expression) for label in group.split(", ")}
    assert grouped <= set.union(*(labels[name] for name in metrics)) | OF_PROMETHEUS


def test_every_metric_of_ours_is_shown(labels: dict[str, set[str]]) -> None:
    shown = {
        re.sub(r"_(bucket|sum|count)$", "", name) for expression in EXPRESSIONS for name in find_metrics(expression)
    }
    ours = {re.sub(r"_(bucket|sum|count|created)$", "", name) for name in labels if name.startswith("hyperdraw_")}
    assert len(ours) > 20
    assert {name for name in ours if f"{name}_total" not in ours} <= shown


def test_panels_find_their_data_source() -> None:
    source = yaml.safe_load((DIRECTORY / "grafana" / "datasources" / "prometheus.yml").read_text())["datasources"][0]
    dashboard = read_dashboard()
    panels = dashboard["panels"]
    assert {panel["datasource"]["uid"] for panel in panels} == {source["uid"]}
    assert len({panel["id"] for panel in panels}) == len(panels)
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    assert set(re.findall(r'"\$(\w+)"', " ".join(EXPRESSIONS))) == variables
    provider = yaml.safe_load((DIRECTORY / "grafana" / "dashboards" / "provider.yml").read_text())["providers"][0]
    assert provider["options"]["path"] == "/etc/grafana/provisioning/dashboards"


def test_compose_mounts_what_there_is_for_this_machine_only() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    watching = {name: s for name, s in services.items() if s.get("profiles") == ["observability"]}
    assert set(watching) == {"prometheus", "grafana"}
    for service in watching.values():
        assert re.fullmatch(r"[\w/]+:v?\d+\.\d+\.\d+", service["image"])
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        for mount in service["volumes"]:
            source, _, mode = mount.rpartition(":")
            if mount.startswith("./"):
                assert mode == "ro"
                assert (ROOT / source.partition(":")[0]).exists()
    grafana = watching["grafana"]["environment"]
    assert grafana["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert grafana["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert not any("PASSWORD" in name for name in grafana)
    (job,) = yaml.safe_load((DIRECTORY / "prometheus.yml").read_text())["scrape_configs"]
    (discovery,) = job["dns_sd_configs"]  # of all replicas
    assert (discovery["names"], discovery["type"], discovery["port"]) == (["hyperdraw"], "A", 8000)


@pytest.mark.needs("prometheus")
def test_prometheus_reads_the_metrics_with_and_without_keys(checkpoints: Path, tmp_path: Path) -> None:
    key, entry = create_key("prometheus", [])
    (tmp_path / "keys.toml").write_text(entry)
    (tmp_path / "keys.toml").chmod(0o600)
    config = yaml.safe_load((DIRECTORY / "prometheus.yml").read_text())
    config["global"]["scrape_interval"] = "1s"
    del config["rule_files"]
    (job,) = config.pop("scrape_configs")
    assert job["authorization"].pop("credentials_file") == "/etc/prometheus/key"
    del job["dns_sd_configs"]
    port, jobs = find_free_port(), []
    with ExitStack() as stack:
        for name, content, keys in (("open", "", None), ("closed", key, tmp_path / "keys.toml")):
            address = stack.enter_context(serve(create_app(Settings(checkpoints=checkpoints, decoders=1, keys=keys))))
            (tmp_path / name).write_text(content)
            targets = [{"targets": [address.removeprefix("http://")]}]
            authorization = {"credentials_file": str(tmp_path / name)}
            jobs.append(job | {"job_name": name, "static_configs": targets, "authorization": authorization})
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config | {"scrape_configs": jobs}))
        folders = [f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/tsdb"]
        command = ["prometheus", *folders, f"--web.listen-address=127.0.0.1:{port}"]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            try:
                wait_until(lambda: query(port, "up") == ["1", "1"])
                assert query(port, "hyperdraw_ready") == ["1", "1"]
            finally:
                process.kill()


def query(port: int, expression: str) -> list[str]:
    """Values that Prometheus has for an expression."""
    try:
        answer = httpx.get(f"http://127.0.0.1:{port}/api/v1/query", params={"query": expression}).raise_for_status()
    except (httpx.TransportError, httpx.HTTPStatusError):  # it starts
        return []
    return [found["value"][1] for found in answer.json()["data"]["result"]]


@pytest.mark.needs("promtool")
def test_prometheus_understands_its_files_and_alerts() -> None:
    for arguments in (
        ["check", "config", "--syntax-only", str(DIRECTORY / "prometheus.yml")],
        ["test", "rules", str(ROOT / "tests" / "alerts_test.yml")],
    ):
        ran = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr
