import gc
import threading
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from server.binding import Bindings, host_memory
from server.device import CUDA_PROVIDER, cuda_problem
from server.session import Runtime, Session

HAS_GPU = Path("/dev/nvidiactl").exists()
BUCKETS = (1, 4, 6)


def pixels(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), np.uint8)


def bound(content: bytes, *outputs: str) -> tuple[Bindings, onnxruntime.InferenceSession]:
    sessions = {size: onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]) for size in BUCKETS}
    names = [output.name for output in sessions[1].get_outputs()] if not outputs else list(outputs)
    return Bindings(sessions, picture=(32, 32, 3), outputs=names, device="cpu"), sessions[1]


@pytest.mark.parametrize("count", range(1, 7))
def test_every_batch_size_gets_the_answers_of_a_plain_run(kit, count):
    """Padded or not, each image has the scores that the runtime gives for plain arrays; one output or two."""
    for content in (kit.model_bytes(), kit.doubting_bytes()):
        bindings, session = bound(content)
        plain = session.run(None, {"image": pixels(count)})
        for got, expected in zip(bindings.run(pixels(count)), plain, strict=True):
            assert got.shape == expected.shape
            assert np.allclose(got, expected, atol=1e-6)


def test_an_answer_stays_what_it_was_when_the_memory_is_used_again(kit):
    """What a batch gave is a copy; the images that an earlier batch left behind are in nobody's answer."""
    bindings, session = bound(kit.model_bytes())
    first = bindings.run(pixels(6))[0]
    kept = first.copy()
    smaller = bindings.run(pixels(3, seed=1))[0]
    assert np.array_equal(first, kept)
    assert np.allclose(smaller, session.run(None, {"image": pixels(3, seed=1)})[0], atol=1e-6)


def test_threads_never_get_each_others_answers(kit):
    """More threads than there are places: each gets what its own images deserve, many times."""
    bindings, session = bound(kit.model_bytes())
    wrong = []

    def work(number: int) -> None:
        for turn in range(40):
            batch = pixels(1 + (number + turn) % 6, seed=100 * number + turn)
            if not np.allclose(bindings.run(batch)[0], session.run(None, {"image": batch})[0], atol=1e-6):
                wrong.append((number, turn))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_batch_that_fails_leaves_its_place_to_the_next(kit):
    """Pictures of another size raise, more often than there are places, and the next batch is answered."""
    bindings, _ = bound(kit.model_bytes())
    for _ in range(5):
        with pytest.raises(ValueError, match="broadcast"):
            bindings.run(np.zeros((2, 16, 16, 3), np.uint8))
    assert bindings.run(pixels(2))[0].shape == (2, 3)


@pytest.mark.skipif(HAS_GPU, reason="this machine has a GPU: memory is pinned here")
def test_memory_that_cannot_be_pinned_is_plain(caplog):
    """Without a driver there is memory all the same, and the log says which kind."""
    memory = host_memory((2, 3), np.float32, pinned=True)
    assert (memory.shape, memory.dtype, memory.sum()) == ((2, 3), np.float32, 0)
    assert "memory_not_pinned" in caplog.text


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="no NVIDIA device: nothing can be pinned")
def test_pinned_memory_is_pinned_and_given_back():
    """The driver knows an array's address as pinned until the array is gone."""
    import ctypes

    from server.binding import _context

    memory = host_memory((4, 1000), np.uint8, pinned=True)
    address, flags = memory.ctypes.data, ctypes.c_uint()
    memory[:] = 7
    assert memory.sum() == 28_000
    with _context() as driver:
        assert driver.cuMemHostGetFlags(ctypes.byref(flags), ctypes.c_void_p(address)) == 0
    del memory
    gc.collect()
    with _context() as driver:
        assert driver.cuMemHostGetFlags(ctypes.byref(flags), ctypes.c_void_p(address)) != 0


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="no NVIDIA device")
def test_cuda_gives_the_answers_of_the_cpu(kit):
    """On a GPU a session runs on CUDA, and its scores are the CPU's for every batch size, from several threads."""
    assert cuda_problem() == ""
    for content in (kit.model_bytes(), kit.doubting_bytes()):
        session = Session(content, Runtime(device="cuda", threads=1, max_batch=6, tf32=False))
        assert session.providers[0] == CUDA_PROVIDER
        plain = Session(content, Runtime(device="cpu", threads=1, max_batch=6))
        wrong = []

        def work(number: int, session: Session = session, plain: Session = plain, wrong: list = wrong) -> None:
            for turn in range(30):
                batch = pixels(1 + (number + turn) % 6, seed=100 * number + turn)
                if not np.allclose(session.run(batch), plain.run(batch), atol=1e-5):
                    wrong.append((number, turn))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
