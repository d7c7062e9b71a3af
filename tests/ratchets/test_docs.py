import importlib.util
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

TOP = Path(__file__).parents[2]
OTHER_PAGES = (
    "README.md",
    "deploy/README.md",
    "deploy/kustomize/README.md",
    "benchmarks/README.md",
    ".github/CONTRIBUTING.md",
)
PAGES = sorted([*(TOP / "docs").rglob("*.md"), *(TOP / name for name in OTHER_PAGES)])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")

#: A value other than the default for each option; what is not here takes one by its type.
VALUES = {
    "promote": "always",
    "batch-size": "8", "device": "cpu", "fit": "letterbox", "group-by": "exif", "balance": "loss", "image-px": "32",
    "learning-rate": "0.5", "listen": "there:1", "max-queue-mib": "512", "metrics": "there:2", "model": "some",
    "model-id": "some", "models": "here", "older-than-days": "3", "out": "x.csv", "server": "there:1", "threads": "3",
    "admin": "there:3", "health": "there:4",
    "optimizer": "adam", "schedule": "constant", "augment": "mild", "refit": "all", "views": "3", "patience": "4",
    "sizes": "3,all", "repeats": "4", "precision": "int8", "target-precision": "0.9", "log-format": "json",
    "state": "running,failed", "trace-endpoint": "http://there:3",
    "data-root": "photos", "runs-root": "jobs", "gpus": "0,2", "max-image-px": "512",
}  # fmt: skip

#: Options that are refused without others.
TOGETHER = {
    "publish": ("model-id",),
    "model-id": ("publish",),
    "tls-cert": ("tls-key",),
    "tls-key": ("tls-cert",),
    "tls-client-ca": ("tls-cert", "tls-key"),
}

#: What every verb of `trapline` has.
TO_SERVER = "--plaintext-token --server --tls --tls-ca --tls-cert --tls-key --token-file"

#: Option names as people type them. An option may be added; one that was released is never renamed or taken away.
FROZEN = {
    "trainer sample": "OUT --seed",
    "trainer run": "--augment --backbone --balance --batch-size --cache-dir --cache-gib --checkpoint-minutes --config "
    "--cutmix --earliest-rate --ema --epochs --fit --group-by --groups --image-px --images --label-smoothing "
    "--learning-rate --mixup --model-id --optimizer --out --patience --promote --publish --refit --rotation-degrees "
    "--schedule --seed --target-precision --test-share --val-share --views --weight-decay --weights DATA",
    "trainer lr-find": "--augment --backbone --balance --batch-size --cache-dir --cache-gib --config --cutmix "
    "--earliest-rate "
    "--fit --group-by --groups --image-px --label-smoothing --mixup --optimizer --out --rotation-degrees "
    "--seed --test-share --val-share --views --weight-decay --weights DATA",
    "trainer study": "--augment --backbone --balance --batch-size --cache-dir --cache-gib --checkpoint-minutes "
    "--config --cutmix --earliest-rate --ema --epochs --fit --group-by --groups --image-px --label-smoothing "
    "--learning-rate --mixup --optimizer --out --patience --repeats --rotation-degrees --schedule --seed --sizes "
    "--test-share --val-share --views --weight-decay --weights DATA",
    "trainer compare": "RUNS --json",
    "trainer evaluate": "MODEL DATA --json",
    "trainer report": "RUN --cache-dir --cache-gib --data --images --pictures",
    "trainer export": "RUN --cache-dir --cache-gib --data --model-id --precision --publish",
    "trainer publish": "MODEL MODELS --model-id",
    "trainer serve": "--admin --admin-token-file --cache-dir --cache-gib --checkpoint-minutes --config "
    "--connection-age-seconds --connection-grace-seconds --data-root --drain-seconds --gpus --health --keep-days "
    "--keep-runs --listen --log-format --max-connection-calls --max-epochs --max-hours --max-image-px --max-pending "
    "--max-photos --metrics --min-free-gib --models --parallel --reflection --runs-root --tls-cert --tls-client-ca "
    "--tls-key --token-file --trace-endpoint",
    "trainer cache list": "--cache-dir",
    "trainer cache clear": "--cache-dir --older-than-days",
    "server run": "--admin --admin-token-file --allow-empty --config --connection-age-seconds "
    "--connection-grace-seconds --device --drain-seconds --gpu-memory-mib --health --listen --log-format --max-batch "
    "--max-connection-calls --max-delay-ms --max-megapixels --max-message-mib --max-queue-images --max-queue-mib "
    "--max-queue-ms --metrics --model-memory-mib --models --precision --reflection --tf32 --threads --tls-cert "
    "--tls-client-ca --tls-key --token-file --trace-endpoint --watch",
    "server check": "--config --device --gpu-memory-mib --max-batch --model-memory-mib --models --precision --tf32 "
    "--threads",
    "trapline classify": f"PATHS --model --model-thresholds --out --timeout-seconds --top-k --window {TO_SERVER}",
    "trapline models": f"--json --timeout-seconds {TO_SERVER}",
    "trapline reload": f"MODEL --timeout-seconds --version {TO_SERVER}",
    "trapline train submit": "--augment --backbone --balance --batch-size --config --cutmix --earliest-rate --ema "
    "--epochs --fit --group-by --groups --image-px --images --job-id --label-smoothing --learning-rate --lost-seconds "
    "--mixup --model-id --optimizer --patience --promote --recipe --refit --rotation-degrees --schedule --seed "
    "--target-precision --test-share --timeout-seconds --val-share --validate-only --views --watch --weight-decay "
    f"--weights DATASET {TO_SERVER}",
    "trapline train list": f"--json --state --timeout-seconds {TO_SERVER}",
    "trapline train show": f"JOB --json --timeout-seconds {TO_SERVER}",
    "trapline train watch": f"JOBS --lost-seconds --timeout-seconds {TO_SERVER}",
    "trapline train cancel": f"JOB --timeout-seconds {TO_SERVER}",
    "trapline train delete": f"JOB --timeout-seconds {TO_SERVER}",
    "trapline train fetch": f"JOB --lost-seconds --out --path --timeout-seconds {TO_SERVER}",
}


#: Scripts under docs/ that write the page of their name.
WRITTEN = ("configuration", "errors", "metrics")


def writer(name: str) -> ModuleType:
    """The script that writes a page."""
    spec = importlib.util.spec_from_file_location(name, TOP / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(name="configuration", scope="module")
def _configuration() -> ModuleType:
    return writer("configuration")


@pytest.mark.parametrize("name", WRITTEN)
def test_a_page_that_is_written_is_current(name):
    """A page made from declarations says what they say now, and `make protos` writes it."""
    module = writer(name)
    assert module.PAGE.read_text(encoding="utf-8") == module.text(), f"run `python docs/{name}.py`"
    assert f"docs/{name}.py" in (TOP / "Makefile").read_text(encoding="utf-8")


def test_the_page_of_errors_has_every_reason():
    """Each reason that a service sends has one row, with its class and code."""
    module = writer("errors")
    assert len(module.REFUSALS) >= 11
    for kind in module.REFUSALS:
        assert module.text().count(f"| `{kind.__name__}` | {kind.code.name} | `") == 1


def test_option_names_are_frozen(configuration):
    """No verb loses, gains or renames an option unless this list says so too."""
    assert {verb: set(configuration.flags(options)) for verb, options in configuration.VERBS.items()} == {
        verb: set(names.split()) for verb, names in FROZEN.items()
    }


@pytest.mark.parametrize("verb", FROZEN)
def test_the_page_names_flags_as_help_does(configuration, verb, capsys):
    """Every option of the page is one that `--help` tells, and the other way round."""
    options = configuration.VERBS[verb]
    with pytest.raises(SystemExit):
        options(_cli_parse_args=["--help"], _cli_prog_name=verb)
    told = set(re.findall(r"^  (?:-h, )?((?:--)?[A-Za-z0-9-]+)", capsys.readouterr().out, re.MULTILINE))
    assert told - {"--help"} == set(configuration.flags(options))


@pytest.mark.parametrize("verb", FROZEN)
def test_the_page_names_variables_that_are_read(configuration, verb, monkeypatch):
    """Every environment variable of the page sets its option."""
    options = configuration.VERBS[verb]
    section = configuration.text().split(f"\n## {verb}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `--([a-z0-9-]+)`[^|]*\| `([A-Z0-9_]+)` \|", section, re.MULTILINE)
    assert len(rows) == sum(name.startswith("--") for name in FROZEN[verb].split())
    words = [name.lower() for name in FROZEN[verb].split() if name.isupper()]
    fields = {(field.alias or name).replace("_", "-"): (name, field) for name, field in options.model_fields.items()}
    for flag, variable in rows:
        name, field = fields[flag]
        if flag == "config":
            continue  # names a file; tests/protos/test_command_line.py has it
        by_type = {bool: str(not field.default), int: "2", float: "0.25"}
        value = VALUES.get(flag) or by_type.get(field.annotation, "some")
        with monkeypatch.context() as patch:
            for other, variable_of_other in rows:
                if fields[other][1].is_required() or other in TOGETHER.get(flag, ()):
                    patch.setenv(variable_of_other, VALUES.get(other, "some"))
            patch.setenv(variable, value)
            read = getattr(options(_cli_parse_args=words), name)
        assert (",".join(read) if isinstance(read, tuple) else str(read)) == value, variable
        assert field.is_required() or read != field.default, variable


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(TOP).as_posix())
def test_relative_links_lead_somewhere(page):
    """No page links to a file that is not there, or to a heading that the page it names lacks."""
    text = page.read_text(encoding="utf-8")
    broken = []
    for target in LINK.findall(re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, heading = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists() or (heading and heading not in _headings(path)):
            broken.append(target)
    assert not broken


def _headings(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    lines = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in lines}


def test_the_model_pages_code_runs(tmp_path, capsys):
    """The ten lines of docs/model-file.md read a model file and print each label with its score."""
    from PIL import Image

    text = (TOP / "docs" / "model-file.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    photo, model = tmp_path / "photo.png", tmp_path / "model.onnx"
    Image.new("RGB", (20, 10), (255, 0, 0)).save(photo)
    model.write_bytes(_red_or_blue())
    exec(compile(code, "docs/model-file.md", "exec"), {"PHOTO": str(photo), "MODEL": str(model)})
    assert capsys.readouterr().out.split() == ["red", "1.0", "blue", "0.0"]


def _red_or_blue() -> bytes:
    """An ONNX file that tells red pictures from blue ones, with Trapline's metadata."""
    from onnx import TensorProto, helper, numpy_helper

    from trapline import model_file, preprocessing
    from trapline.v1.metadata_pb2 import Label, ModelMetadata

    weight = np.array([[1, 0], [0, 0], [0, 1]], np.float32)
    nodes = [
        helper.make_node("Cast", [model_file.INPUT_NAME], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "weight"], ["logits"]),
        helper.make_node("Softmax", ["logits"], [model_file.PROBABILITIES_NAME]),
    ]
    graph = helper.make_graph(
        nodes,
        "red_or_blue",
        [helper.make_tensor_value_info(model_file.INPUT_NAME, TensorProto.UINT8, ["N", 8, 8, 3])],
        [helper.make_tensor_value_info(model_file.PROBABILITIES_NAME, TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(np.array([1, 2]), "axes"), numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    metadata = ModelMetadata(
        labels=[Label(id="red", display_name="Red"), Label(id="blue", display_name="Blue")],
        preprocessing=preprocessing.rules(fit="stretch", image_px=8),
    )
    helper.set_model_props(model, model_file.to_properties(metadata))
    return model.SerializeToString()
