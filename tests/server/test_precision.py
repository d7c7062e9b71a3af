import hashlib
import logging

import pytest
from google.protobuf import json_format

from server.precision import choose, measured, problems, told
from server.session import Runtime, Session, read_file
from trapline.errors import ModelInvalid, from_status, reason_name
from trapline.model_file import METADATA_KEY, to_properties
from trapline.v1 import model_pb2
from trapline.v1.metadata_pb2 import ModelMetadata

RUNTIME = Runtime(device="cpu", threads=1, max_batch=2)
CUDA = Runtime(device="cuda", threads=1, max_batch=2)
NAME = "models/colours"


def cheaper(kit, fp32: bytes, precision: str = "int8", **fields: object) -> bytes:
    """The file at `fp32` as `trainer export` would describe a cheaper one made from it, with `fields` changed."""

    def describe(model):
        (entry,) = [entry for entry in model.metadata_props if entry.key == METADATA_KEY]
        metadata = json_format.Parse(entry.value, ModelMetadata())
        metadata.precision, metadata.fp32_digest = precision, hashlib.sha256(fp32).hexdigest()
        for name, value in fields.items():
            setattr(metadata, name, value)
        entry.value = to_properties(metadata)[METADATA_KEY]

    return kit.with_nodes(fp32, describe)


@pytest.fixture
def version(kit, models):
    """The folder of a version with an fp32 and an int8 file."""
    folder = models / "colours" / "1"
    (folder / "model.int8.onnx").write_bytes(cheaper(kit, (folder / "model.onnx").read_bytes()))
    return folder


def opened(path):
    return Session(read_file(path), RUNTIME)


def rated(**rates):
    """A measurement that gives these images a second, of the precisions that it was asked for."""
    return lambda sessions, _count: {precision: rates[precision] for precision in sessions}


@pytest.mark.parametrize(
    ("int8", "served"), [(200.0, "int8"), (106.0, "int8"), (104.0, "fp32"), (100.0, "fp32"), (50.0, "fp32")]
)
def test_the_fastest_is_served(version, int8, served):
    """What warm-up measured decides; a gain that may be chance leaves fp32 in its place. The digest is the file's."""
    session = choose(version, RUNTIME, wanted="auto", open_session=opened, measure=rated(fp32=100.0, int8=int8))
    name = "model.onnx" if served == "fp32" else "model.int8.onnx"
    assert (session.precision, session.digest) == (served, hashlib.sha256((version / name).read_bytes()).hexdigest())
    assert {each.precision: each.images_per_second for each in session.candidates} == {"fp32": 100.0, "int8": int8}
    assert told(session) == f"fp32:100.0,int8:{int8:.1f}"
    assert problems(session) == ""


@pytest.mark.parametrize("wanted", ["fp32", "int8"])
def test_a_precision_that_is_named_is_served_unmeasured(version, wanted):
    """`--precision` takes one file whatever the others' speed, and spends no time on measuring."""
    session = choose(version, RUNTIME, wanted=wanted, open_session=opened, measure=lambda *_: pytest.fail("measured"))
    assert session.precision == wanted


def test_a_precision_that_is_named_and_missing_is_no_reason_to_fall_back(version):
    """`--precision fp16` without such a file refuses the version, and says what is missing."""
    with pytest.raises(ModelInvalid, match=r"--precision fp16: .* no model\.fp16\.onnx"):
        choose(version, RUNTIME, wanted="fp16", open_session=opened)


def test_what_does_not_suit_the_device_is_not_even_opened(kit, version):
    """fp16 is for CUDA and int8 for processors; with one file left nothing is measured."""
    (version / "model.fp16.onnx").write_bytes(b"not opened on a processor")
    seen = []

    def noted(path):
        seen.append(path.name)
        return opened(path)

    choose(version, RUNTIME, wanted="auto", open_session=noted, measure=rated(fp32=1.0, int8=2.0))
    assert seen == ["model.onnx", "model.int8.onnx"]
    fp32 = (version / "model.onnx").read_bytes()
    (version / "model.fp16.onnx").write_bytes(cheaper(kit, fp32, "fp16"))
    seen.clear()
    session = choose(version, CUDA, wanted="auto", open_session=noted, measure=rated(fp32=1.0, fp16=2.0))
    assert (seen, session.precision) == (["model.onnx", "model.fp16.onnx"], "fp16")
    (version / "model.int8.onnx").unlink()
    session = choose(version, RUNTIME, wanted="auto", open_session=opened, measure=lambda *_: pytest.fail("measured"))
    assert told(session) == "fp32:unmeasured"


def broken_files(kit, fp32: bytes) -> dict[str, bytes]:
    other = kit.model_bytes(scale=0.03)
    return {
        "cannot load": b"junk",
        "says that it is fp16": cheaper(kit, fp32, "fp16"),
        "says that it is fp32": fp32,
        "labels are not those": cheaper(kit, kit.model_bytes(labels=("red", "blue", "green"))),
        "preprocessing is not that": cheaper(kit, kit.model_bytes(image_px=16)),
        "made from another file": cheaper(kit, other),
    }


def test_a_broken_extra_file_never_displaces_fp32(kit, version, caplog):
    """Each kind of wrong int8 file: fp32 is served, and the log, the candidate and the sentence say why."""
    fp32 = (version / "model.onnx").read_bytes()
    for sentence, content in broken_files(kit, fp32).items():
        (version / "model.int8.onnx").write_bytes(content)
        session = choose(
            version, RUNTIME, wanted="auto", open_session=opened, measure=lambda *_: pytest.fail("measured")
        )
        assert session.precision == "fp32"
        assert sentence in session.candidates[1].problem
        assert problems(session).startswith("model.int8.onnx cannot be served, model.onnx is: ")
        assert sentence in caplog.records[-1].getMessage()
        assert told(session) == "fp32:unmeasured,int8:invalid"
        with pytest.raises(ModelInvalid, match=sentence):
            choose(version, RUNTIME, wanted="int8", open_session=opened)


def test_a_fault_of_ours_on_an_extra_file_never_displaces_fp32(version, caplog):
    """What the runtime raises beside its own errors is told with an id, and fp32 is served."""

    def faulty(path):
        if path.name != "model.onnx":
            raise RuntimeError("secret insides")
        return opened(path)

    session = choose(version, RUNTIME, wanted="auto", open_session=faulty)
    assert session.precision == "fp32"
    assert "internal error" in problems(session)
    assert "secret insides" in caplog.text


def test_an_fp32_file_that_is_none_is_refused(kit, version):
    """A cheaper file in the place of `model.onnx` is not served as what it is not."""
    fp32 = (version / "model.onnx").read_bytes()
    (version / "model.onnx").write_bytes(cheaper(kit, fp32))
    with pytest.raises(ModelInvalid, match="must be fp32"):
        choose(version, RUNTIME, wanted="auto", open_session=opened)


def test_every_session_is_measured(version):
    """The measurement runs every session in full batches and gives each a rate."""
    sizes = {"fp32": [], "int8": []}

    class Noted(Session):
        def run(self, pixels, *, alone=True):
            sizes[self.precision].append(len(pixels))
            return super().run(pixels, alone=alone)

    sessions = {
        name: Noted(read_file(version / file), RUNTIME)
        for name, file in (("fp32", "model.onnx"), ("int8", "model.int8.onnx"))
    }
    for runs in sizes.values():
        runs.clear()
    rates = measured(sessions, 2)
    assert sizes == {"fp32": [2, 2, 2], "int8": [2, 2, 2]}
    assert all(rate > 0 for rate in rates.values())


async def test_the_model_says_which_file_is_served_and_why(kit, models, version, caplog):
    """GetModel has the precision, the digest of the file served and all candidates with their rates; the log too."""
    caplog.set_level(logging.INFO)
    async with kit.running(models, precision="int8", max_batch=2) as (_, stubs):
        model = await stubs.models.GetModel(model_pb2.GetModelRequest(name=NAME))
        content = (version / "model.int8.onnx").read_bytes()
        assert (model.precision, model.digest) == ("int8", hashlib.sha256(content).hexdigest())
        assert not model.HasField("last_error")
        answer = await stubs.classify.Classify(kit.request(kit.picture()))
        assert answer.predictions[0].label_id == "red"
    async with kit.running(models, max_batch=2) as (_, stubs):
        model = await stubs.models.GetModel(model_pb2.GetModelRequest(name=NAME))
        rates = {each.precision: each.images_per_second for each in model.candidates}
        assert rates.keys() == {"fp32", "int8"}
        assert min(rates.values()) > 0
        assert model.precision in rates
    assert f"event=precision_chosen folder={version} precision={model.precision} rates=fp32:" in caplog.text


async def test_a_broken_int8_file_is_told_beside_a_model_that_serves(kit, models, version):
    """The state is ACTIVE with fp32; `last_error` and the candidate say what is wrong, and a good file clears it."""
    good = (version / "model.int8.onnx").read_bytes()
    (version / "model.int8.onnx").write_bytes(b"junk")
    async with kit.running(models) as (_, stubs):
        model = await stubs.models.GetModel(model_pb2.GetModelRequest(name=NAME))
        assert (model.state, model.precision) == (model_pb2.Model.STATE_ACTIVE, "fp32")
        told_error = from_status(model.last_error)
        assert reason_name(told_error) == "MODEL_INVALID"
        assert "model.int8.onnx cannot be served, model.onnx is" in told_error.message
        assert [each.HasField("error") for each in model.candidates] == [False, True]
        (version / "model.int8.onnx").write_bytes(good)
        model = await stubs.models.ReloadModel(model_pb2.ReloadModelRequest(name=NAME))
        assert not model.HasField("last_error")
        assert [each.HasField("error") for each in model.candidates] == [False, False]
