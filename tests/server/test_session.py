import hashlib

import numpy as np
import pytest

import server.session
from server.binding import Bindings
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


def test_buckets_are_powers_of_four_and_the_largest_batch():
    """What CUDA pads a batch to."""
    assert _buckets(1) == (1,)
    assert _buckets(6) == (1, 4, 6)
    assert _buckets(16) == (1, 4, 16)
    assert _buckets(64) == (1, 4, 16, 64)


def test_a_file_over_the_limit_is_not_read(tmp_path, monkeypatch):
    """A model file above the cap is refused by its size, before it is read."""
    monkeypatch.setattr("server.session.MAX_FILE_BYTES", 10)
    path = tmp_path / "model.onnx"
    path.write_bytes(bytes(11))
    with pytest.raises(ModelInvalid, match="the limit is 10"):
        read_file(path)


def test_on_a_gpu_each_size_has_a_session_and_a_share_of_the_memory(kit, monkeypatch):
    """A session runs one batch size for life: cuDNN plans anew for another. Here sessions of the CPU stand in."""
    opened, real = [], server.session._open

    def open_on_the_cpu(content, runtime):
        opened.append((real(content, RUNTIME), runtime.gpu_memory_bytes))
        return opened[-1][0]

    monkeypatch.setattr(server.session, "_open", open_on_the_cpu)
    monkeypatch.setattr(
        server.session, "Bindings", lambda *words, **more: Bindings(*words, **{**more, "device": "cpu"})
    )
    session = Session(kit.model_bytes(), Runtime(device="cuda", threads=2, max_batch=16, gpu_memory_bytes=3000))
    assert session.buckets == (1, 4, 16)
    assert [share for _, share in opened] == [1000] * 3
    assert not session.has_lanes
    sizes = {number: set() for number in range(3)}
    for number, (each, _) in enumerate(opened):
        run = each.run_with_iobinding

        def noted(binding, number=number, run=run):
            sizes[number].add(binding.get_outputs()[0].shape()[0])
            return run(binding)

        monkeypatch.setattr(each, "run_with_iobinding", noted)
    plain = Session(kit.model_bytes(), RUNTIME)
    for count in range(1, 17):
        assert np.allclose(session.run(pixels(count)), plain.run(pixels(count)), atol=1e-6)
    assert sizes == {0: {1}, 1: {4}, 2: {16}}
