import hashlib
from pathlib import Path

import numpy as np
import pytest

from server.device import CUDA_PROVIDER, choose_device, cuda_problem
from server.session import Runtime, Session, _buckets, read_file
from trapline.errors import ModelInvalid

RUNTIME = Runtime(device="cpu", threads=1, max_batch=6)


def pixels(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)


def test_a_session_is_warm_and_knows_its_file(kit):
    """After loading it has metadata, the file's digest and its pace, and any batch size runs."""
    content = kit.model_bytes()
    session = Session(content, RUNTIME)
    assert session.digest == hashlib.sha256(content).hexdigest()
    assert session.score_count == 3
    assert session.arrangement.alone.seconds(6) > 0
    assert session.arrangement.shared is None
    for count in (1, 5, 6):
        scores = session.run(pixels(count))
        assert (scores.shape, scores.dtype) == ((count, 3), np.float32)


def test_an_unknown_score_must_be_there_where_the_file_says_so(kit):
    """It comes last in a row; metadata that promise it and a graph without it are refused by the output's name."""
    session = Session(kit.doubting_bytes(), RUNTIME)
    assert session.score_count == 4
    scores = session.run(np.zeros((2, 32, 32, 3), np.uint8))
    assert scores[:, 3].tolist() == [2, 2]
    assert scores[:, :3].sum(axis=1) == pytest.approx([1, 1])
    without = kit.with_nodes(kit.doubting_bytes(), lambda model: model.graph.output.pop())
    with pytest.raises(ModelInvalid, match="unknown_score"):
        Session(without, RUNTIME)


def test_padding_to_a_bucket_changes_no_answer(kit):
    """What CUDA runs, a batch padded to a size that was warmed up, gives each image the same scores."""
    assert _buckets(1) == (1,)
    assert _buckets(6) == (1, 2, 4, 6)
    assert _buckets(16) == (1, 2, 4, 8, 16)
    session = Session(kit.model_bytes(), RUNTIME)
    plain = session.run(pixels(3))
    session.buckets = _buckets(6)
    assert np.array_equal(session.run(pixels(3)), plain)


def test_a_file_over_the_limit_is_not_read(tmp_path, monkeypatch):
    """A model file above the cap is refused by its size, before it is read."""
    monkeypatch.setattr("server.session.MAX_FILE_BYTES", 10)
    path = tmp_path / "model.onnx"
    path.write_bytes(bytes(11))
    with pytest.raises(ModelInvalid, match="the limit is 10"):
        read_file(path)


@pytest.mark.gpu
def test_cuda_gives_the_answers_of_the_cpu(kit):
    """On a GPU the session runs on CUDA, and its scores are the CPU's."""
    if not Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has no NVIDIA GPU")
    assert cuda_problem() == ""
    assert choose_device("auto") == "cuda"
    session = Session(kit.model_bytes(), Runtime(device="cuda", threads=1, max_batch=6, tf32=False))
    assert session.providers[0] == CUDA_PROVIDER
    expected = Session(kit.model_bytes(), RUNTIME).run(pixels(5))
    assert np.allclose(session.run(pixels(5)), expected, atol=1e-5)
