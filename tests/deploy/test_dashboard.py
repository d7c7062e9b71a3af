import asyncio
import json
import re
import subprocess
import sys
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
import yaml
from modules import module_at

from trainer.jobs.app import build as build_trainer
from trainer.jobs.config import ServeConfig
from trainer.jobs.metrics import TrainMetrics
from trapline.v1.error_reason_pb2 import ErrorReason

TOP = Path(__file__).parents[2]


PROMETHEUS = module_at(Path(__file__).with_name("prometheus.py"))
KIT = module_at(TOP / "tests" / "server" / "conftest.py")
FOLDER, asked, MATCHER = PROMETHEUS.FOLDER, PROMETHEUS.asked, PROMETHEUS.MATCHER
RULES = PROMETHEUS.shipped()
RECORDS = PROMETHEUS.records(RULES)


@pytest.fixture(scope="module", name="promtool")
def _promtool():
    try:
        PROMETHEUS.install()
    except PROMETHEUS.Unavailable as reason:
        pytest.skip(str(reason))
    return PROMETHEUS.promtool


@pytest.fixture(scope="module", name="pages")
def _pages(tmp_path_factory):
    """Metrics of a server and of a train service that run, with their labels: of the page, and as declared."""
    folder = tmp_path_factory.mktemp("pages")
    KIT.publish(folder / "models", "colours", 1, KIT.model_bytes())
    (folder / "data").mkdir()
    return asyncio.run(_read_pages(folder))


async def _read_pages(folder):
    async with KIT.running(folder / "models", metrics="127.0.0.1:0") as (server, stubs):
        await stubs.classify.Classify(KIT.request(KIT.picture()))
        options = {"data_root": folder / "data", "runs_root": folder / "runs", "listen": "127.0.0.1:0", "gpus": "none"}
        trainer = build_trainer(ServeConfig(**options, metrics="127.0.0.1:0"))
        try:
            await trainer.start()
            await trainer.load()
            found = {}
            for job, service in (("trapline-server", server), ("trapline-trainer", trainer)):
                url = f"http://{service.metrics_listen}/metrics"
                page = (await asyncio.to_thread(urllib.request.urlopen, url)).read().decode()
                labels = {each.name: set(each.labels) for each in service.metrics.declared}
                found[job] = SimpleNamespace(page=page, labels=labels)
            return found
        finally:
            await trainer.stop()


def labels_of(name, pages):
    """Labels of a metric, by the services that show it: none where no page has it."""
    found = []
    for page in pages.values():
        family = name if name in page.labels else re.sub(r"_(bucket|sum|count)$", "", name)
        if f"# TYPE {family} " not in page.page:
            continue
        bucket = {"le"} if name.endswith("_bucket") else set()
        found.append(page.labels.get(family, set()) | bucket)
    return found


def expressions():
    """Every expression of rules, dashboard and runbook."""
    page = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))
    targets = [target["expr"] for panel in page["panels"] for target in panel.get("targets", [])]
    return [rule["expr"] for group in RULES["groups"] for rule in group["rules"]] + targets + queries()


def queries():
    """Those of the runbook: code that names a metric."""
    page = (TOP / "docs" / "runbook.md").read_text(encoding="utf-8")
    code = [" ".join(each.split()) for each in re.findall(r"`([^`]+)`", page)]
    found = [each for each in code if next(asked(each), None) and not each.startswith("ratio")]
    assert len(found) > 25
    return found


def test_every_metric_is_on_the_page_of_a_running_service(pages):
    """By its name, with the labels that are asked for; recorded ones are recorded."""
    assert len(expressions()) > 60
    for expression in expressions():
        found = list(asked(expression))
        assert found, expression
        for name, matchers in found:
            labels = {label for label, _ in matchers} - {"job", "instance"}
            if name in RECORDS:
                level = name.partition(":")[0]
                assert all(re.search(rf"(^|_){label}(_|$)", level) for label in labels), (expression, name)
            elif name == "up":
                assert not labels
            elif name != "ALERTS":
                there = labels_of(name, pages)
                assert there, f"no page has {name}: {expression}"
                assert all(labels <= each for each in there), (expression, name)


def test_every_value_of_a_label_is_one_that_can_be():
    """Codes of gRPC, reasons of the contract, states of jobs, names of the two services."""
    states = {key[0] for key in TrainMetrics().ended._metrics} | {"pending", "running"}
    reasons = {name.removeprefix("ERROR_REASON_") for name in ErrorReason.keys()} | {"OK", "CANCELLED"}  # noqa: SIM118
    known = {
        "code": {code.name for code in grpc.StatusCode},
        "outcome": reasons | states,
        "state": states,
        "job": {"trapline-server", "trapline-trainer", "trapline-.*"},
        "model": {"$model"},
        "le": {"0.5"},
        "alertname": {"Trapline.*"},
    }
    for expression in expressions():
        for label, value in MATCHER.findall(expression):
            assert set(value.split("|")) <= known[label], (label, value)


def test_every_metric_of_ours_is_looked_at_or_left_out_on_purpose(pages):
    """What is counted and shown nowhere is named here."""
    used = {name for expression in expressions() for name, _ in asked(expression)}
    used |= {name for record in RECORDS.values() for name, _ in asked(record)}
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in used}
    declared = {name for page in pages.values() for name in page.labels}
    left_out = {"trapline_credential_reloads_total", "trapline_model_load_seconds", "trapline_train_watchers"}
    assert declared - families == left_out


def test_the_dashboard_is_what_its_code_makes(tmp_path):
    """`python deploy/monitoring/dashboard.py` changes nothing, and titles and ids are unique."""
    made = tmp_path / "dashboard.json"
    subprocess.run([sys.executable, FOLDER / "dashboard.py", made], check=True, cwd=tmp_path)
    assert made.read_text() == (FOLDER / "dashboard.json").read_text(), "run `python deploy/monitoring/dashboard.py`"
    panels = json.loads(made.read_text())["panels"]
    for key in ("id", "title"):
        assert len({panel[key] for panel in panels}) == len(panels) > 25
    for panel in panels:
        references = [target["refId"] for target in panel.get("targets", [])]
        assert len(set(references)) == len(references)
        assert bool(references) == (panel["type"] == "timeseries")


def test_every_expression_of_dashboard_and_runbook_is_promql(promtool, tmp_path):
    """Promtool takes each as a rule, and refuses one with a bracket too few."""
    rules = [{"record": f"r{number}", "expr": each} for number, each in enumerate(expressions())]
    file = tmp_path / "rules.yml"
    for more, wanted in ([], True), ([{"record": "broken", "expr": "sum(up"}], False):
        file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules + more}]}))
        good, said = promtool("check", "rules", file)
        assert good is wanted, said
