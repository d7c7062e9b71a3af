import re
import shutil
from pathlib import Path

import pytest
import yaml
from modules import module_at

TOP = Path(__file__).parents[2]


PROMETHEUS = module_at(Path(__file__).with_name("prometheus.py"))
FOLDER = PROMETHEUS.FOLDER
RULES = PROMETHEUS.shipped()
ALERTS = PROMETHEUS.alerts(RULES)
RECORDS = PROMETHEUS.records(RULES)
TEST_FILES = sorted((FOLDER / "tests").glob("*.yml"))
SLOW = ("drift_test", "quiet_weeks_test")
FIRING = 'ALERTS{alertstate="firing"}'
asked, MATCHER = PROMETHEUS.asked, PROMETHEUS.MATCHER


@pytest.fixture(scope="module", name="promtool")
def _promtool():
    try:
        PROMETHEUS.install()
    except PROMETHEUS.Unavailable as reason:
        pytest.skip(str(reason))
    return PROMETHEUS.promtool


def groups_of(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]


def test_rules_and_configuration_are_valid(promtool):
    """Promtool finds nothing wrong, and the file of rules has nothing but groups, as a PrometheusRule takes them."""
    for words in (("check", "rules", FOLDER / "rules.yml"), ("check", "config", FOLDER / "prometheus.yml")):
        good, said = promtool(*words)
        assert good, said
    assert set(RULES) == {"groups"}


def test_the_documented_installation_is_that_of_these_tests(promtool, tmp_path):
    """Without the node exporter on the server's port; and the files that it copies are whole where they then lie."""
    page = (TOP / "docs" / "operations.md").read_text(encoding="utf-8")
    install, copy, arguments, restart = re.search(r"^# (apt.*?)\n```", page, re.MULTILINE | re.DOTALL)[1].split("\n# ")
    assert install.split() == ["apt-get", *PROMETHEUS.INSTALL, "prometheus"]
    *_, folder, configuration, rules = copy.split()
    assert (folder, restart) == ("/etc/prometheus", "systemctl restart prometheus")
    for name in (configuration, rules):
        shutil.copy(TOP / name, tmp_path)
    good, said = promtool("check", "config", tmp_path / Path(configuration).name)
    assert good, said
    assert "1 rule files" in said
    assert arguments == """echo 'ARGS="--web.listen-address=127.0.0.1:9090"' > /etc/default/prometheus"""


@pytest.mark.parametrize(
    "path", [pytest.param(path, id=path.stem, marks=[pytest.mark.full] * (path.stem in SLOW)) for path in TEST_FILES]
)
def test_alerts_fire_for_their_fault_and_else_are_quiet(path, promtool):
    """Promtool's own tests, of faults and of health."""
    good, said = promtool("test", "rules", path)
    assert good, said


def fired(path):
    """Alerts that the tests of a file see fire."""
    samples = [
        sample["labels"]
        for group in groups_of(path)
        for test in group["promql_expr_test"]
        if test["expr"] == FIRING
        for sample in test["exp_samples"]
    ]
    return {re.search(r'alertname="(\w+)"', labels)[1] for labels in samples}


def test_each_alert_has_a_test_in_which_it_fires():
    """And each such test says too when it is quiet; that promtool compares all that fires is how it is written."""
    assert set().union(*(fired(path) for path in TEST_FILES)) == set(ALERTS)
    for path in TEST_FILES:
        for group in groups_of(path):
            assert any(not test["exp_samples"] for test in group["promql_expr_test"]), group["name"]


def plain(expression):
    """The expression with recorded metrics replaced by what they are made of."""
    while found := [name for name in RECORDS if re.search(re.escape(name), expression)]:
        for name in found:
            expression = re.sub(
                re.escape(name) + r"(\{[^}]*\})?", lambda m, n=name: f"({RECORDS[n]}) {m[1] or ''}", expression
            )
    return expression


def test_each_alert_has_health_to_be_quiet_in():
    """A quiet test holds an alert only where it has the alert's metrics, with the labels that the alert asks for."""
    hour, weeks = (
        " ".join(
            line["series"] for group in groups_of(FOLDER / "tests" / f"{name}.yml") for line in group["input_series"]
        )
        for name in ("quiet_hour_test", "quiet_weeks_test")
    )
    for name, rule in ALERTS.items():
        series = re.findall(r"(\w+)(\{[^}]*\})", weeks if re.search(r"offset|\[\dd\]", rule["expr"]) else hour)
        for metric, matchers in asked(plain(rule["expr"])):
            wanted = [(label, re.compile(value)) for label, value in matchers]
            assert any(
                metric == there
                and all(
                    any(regex.fullmatch(value) for key, value in MATCHER.findall(labels) if key == label)
                    for label, regex in wanted
                )
                for there, labels in series
            ), (name, metric, matchers)
    for name in ("quiet_hour_test", "quiet_weeks_test"):
        ((test,),) = [group["promql_expr_test"] for group in groups_of(FOLDER / "tests" / f"{name}.yml")]
        window = re.fullmatch(r'count_over_time\(ALERTS\{alertstate="firing"\}\[(\w+)\]\)', test["expr"])[1]
        assert (window, test["exp_samples"]) == (test["eval_time"], [])
        assert window in ("75m", "9d")


NEVER = "({}) and on () vector(0) == 1"


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ALERTS)
def test_tests_notice_an_alert_that_never_fires_or_fires_at_once(name, promtool, tmp_path):
    """With its expression made false, or without its `for`, the alert's own tests fail."""
    (path,) = [path for path in TEST_FILES if name in fired(path)]
    (tmp_path / "tests").mkdir()
    # Only the tests that see it fire: the others of the file take as long again.
    tests = yaml.safe_load(path.read_text(encoding="utf-8"))
    tests["tests"] = [group for group in tests["tests"] if f'"{name}"' in str(group["promql_expr_test"])]
    (tmp_path / "tests" / path.name).write_text(yaml.safe_dump(tests))
    (tmp_path / "rules.yml").write_text((FOLDER / "rules.yml").read_text())
    good, said = promtool("test", "rules", tmp_path / "tests" / path.name)
    assert good, said
    for change in ({"expr": NEVER.format(ALERTS[name]["expr"])}, {"for": "0s"}):
        changed = yaml.safe_load(yaml.safe_dump(RULES))
        PROMETHEUS.alerts(changed)[name].update(change)
        (tmp_path / "rules.yml").write_text(yaml.safe_dump(changed))
        good, said = promtool("test", "rules", tmp_path / "tests" / path.name)
        assert not good, change
        assert name in said


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_how_bad_it_is_and_what_to_do(name):
    """Its name, severity and texts; no alert without a time to wait; a heading of its own in the runbook."""
    rule = ALERTS[name]
    assert re.fullmatch(r"Trapline([A-Z][a-z]+)+", name)
    assert rule["labels"] in ({"severity": "page"}, {"severity": "ticket"})
    assert re.fullmatch(r"[1-9]\d*[mh]", rule["for"])
    notes = rule["annotations"]
    assert set(notes) == {"summary", "description", "runbook"}
    assert not notes["summary"].endswith(".")
    assert notes["description"].endswith(".")
    assert notes["runbook"] == f"docs/runbook.md#{name.lower()}"
    section = re.search(rf"^## {name}$(.*?)(?=^## |\Z)", _runbook(), re.MULTILINE | re.DOTALL)
    assert section, f"docs/runbook.md has no heading {name}"
    for part in ("**What it means.**", "**Confirm.**", "**Do.**"):
        assert part in section[1], (name, part)


def test_the_runbook_has_no_heading_without_an_alert():
    """What was renamed in the rules is renamed there."""
    assert set(re.findall(r"^## (\w+)$", _runbook(), re.MULTILINE)) == set(ALERTS)


def _runbook():
    return (TOP / "docs" / "runbook.md").read_text(encoding="utf-8")


def test_recorded_names_say_level_metric_and_operation():
    """The level is the labels that are left."""
    for name, expression in RECORDS.items():
        level, metric, operation = name.split(":")
        left = re.search(r"by \(([^)]*)\)", expression)[1].replace(", le", "").replace(", ", "_")
        assert level == left, name
        assert metric.startswith("trapline_"), name
        assert re.fullmatch(r"(p95_|mean_|ratio_)?rate(5m|1d|7d)", operation), name
        assert f"{metric}_" in f"{expression}_".replace("_total", "_").replace("[", "_"), name
        assert f"[{operation.rpartition('rate')[2]}]" in expression, name


def test_times_are_shortened_and_nothing_else():
    """The rules that are tried live are the shipped ones: with the times taken out both are the same."""
    changed = PROMETHEUS.faster(RULES, 30)

    def timeless(rules):
        text = yaml.safe_dump(rules, width=10_000)
        text = re.sub(r"(_silent_seconds > )\d+", r"\1", text)
        return re.sub(r"(\[|offset |for: |interval: )\d+(ms|s|m|h|d)", r"\1", text)

    assert timeless(changed) == timeless(RULES)
    assert PROMETHEUS.alerts(changed)["TraplineServerDown"]["for"] == "4000ms"
    assert PROMETHEUS.alerts(changed)["TraplineJobSilent"]["expr"] == "trapline_train_silent_seconds > 60"
    assert "[10000ms]" in changed["groups"][0]["rules"][0]["expr"]
    assert "offset 48000ms" not in yaml.safe_dump(RULES)
    assert "offset 2880000ms" in PROMETHEUS.alerts(changed)["TraplineLabelDrift"]["expr"]
