import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from server.cli import main
from server.config import ServerConfig
from trapline.processors import cpu_quota, thread_count

SCRIPT = str(Path(sys.executable).with_name("server"))


def server(*words: str, **environment: str) -> subprocess.CompletedProcess:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("SERVER_")}
    return subprocess.run(
        [SCRIPT, *words], capture_output=True, text=True, timeout=60, check=False, env={**variables, **environment}
    )


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--help"], 0, "check"),
        (["--version"], 0, "server 0."),
        (["run", "--help"], 0, "--max-queue-ms"),
        (["run"], 2, "--models is required"),
        (["run", "--models", "/absent", "--listen", "nowhere"], 2, "HOST:PORT"),
        (["run", "--models", "/absent", "--max-batch", "0"], 2, "--max-batch"),
        (["run", "--models", "/absent", "--max-megapixels", "179"], 2, "178"),
        (["run", "--models", "/absent", "--max-queue-mib", "8"], 2, "--max-message-mib"),
        (["run", "--models", "/absent", "--log-format", "xml"], 2, "--log-format"),
        (["run", "--models", "/absent", "--trace-endpoint", "nowhere:4317"], 2, "http://HOST:PORT"),
        (["serve"], 2, "invalid choice"),
        (["run", "--models", "/absent", "--tls-cert", "x"], 2, "--tls-cert and --tls-key belong together"),
        (["run", "--models", "/absent", "--tls-client-ca", "x"], 2, "--tls-client-ca needs --tls-cert"),
        (["run", "--models", "/absent", "--admin", "here"], 2, "--admin: must be HOST:PORT"),
        (["check", "--models", "/absent"], 2, "cannot read the folder /absent"),
    ],
)
def test_help_and_usage_errors_are_sentences(words, code, said, monkeypatch, capsys):
    """Help, version and what is wrong with a command line come without a traceback, and with the right exit code."""
    monkeypatch.setattr(sys, "argv", ["server", *words])
    before = signal.getsignal(signal.SIGTERM)
    try:
        ended = main()
    except SystemExit as end:
        ended = end.code or 0
    finally:
        signal.signal(signal.SIGTERM, before)
    output = "".join(capsys.readouterr())
    assert ended == code, output
    assert said in output


def test_help_imports_nothing_slow():
    """Neither gRPC's server nor NumPy nor ONNX Runtime is loaded to show help; torch is loaded never."""
    code = (
        "import sys, server.cli; slow = {'numpy', 'onnxruntime', 'grpc.aio', 'PIL'} & set(sys.modules); "
        "import server.app, server.check; torch = {'torch', 'torchvision'} & set(sys.modules); print(slow, torch)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    slow_without_grpc = ended.stdout.replace("{'grpc.aio'}", "set()")
    assert slow_without_grpc.split() == ["set()", "set()"], "`import grpc` brings grpc.aio along"


def test_check_tells_of_every_model(kit, models):
    """One line a model; exit 0 where every newest version serves, 1 where one does not."""
    ended = server("check", "--models", str(models), "--device", "cpu", "--model-memory-mib", "0")
    assert (ended.returncode, ended.stderr) == (0, "")
    line = ended.stdout
    for part in (
        "colours version 1: ok",
        "precision=fp32",
        "labels=3",
        "input=32x32",
        "fit=stretch",
        "CPUExecutionProvider",
        "digest=",
    ):
        assert part in line
    kit.publish(models, "colours", 2, b"junk")
    kit.publish(models, "worse", 1, b"junk")
    (models / "empty").mkdir()
    ended = server("check", "--models", str(models), "--device", "cpu", "--model-memory-mib", "0")
    assert ended.returncode == 1
    lines = ended.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["colours version 1", "empty", "worse"]
    assert "but version 2 cannot be served" in lines[0]
    assert "no version folder" in lines[1]
    assert "broken: version 1 cannot be served" in lines[2]


def test_both_verbs_take_one_file(models, tmp_path):
    """`check` skips what only `run` knows in a file of options, and refuses what neither does."""
    file = tmp_path / "server.yaml"
    file.write_text(f"models: {models}\ndevice: cpu\nmax-queue-ms: 300\nlisten: 127.0.0.1:0\n")
    assert server("check", "--config", str(file)).returncode == 0
    file.write_text(f"models: {models}\nmax-queue-seconds: 300\n")
    ended = server("check", "--config", str(file))
    assert ended.returncode == 2
    assert "has unknown options: max_queue_seconds" in ended.stderr


def test_check_of_nothing_is_a_failure(tmp_path):
    """An empty repository has nothing that can be served, and is told what to do."""
    ended = server("check", "--models", str(tmp_path))
    assert ended.returncode == 1
    assert "trainer publish" in ended.stderr


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has a GPU: --device cuda works here")
def test_cuda_that_is_not_there_is_an_error(models):
    """`--device cuda` without CUDA ends with exit 1 and says why, before any model is loaded."""
    ended = server("run", "--models", str(models), "--device", "cuda")
    assert ended.returncode == 1
    assert "--device cuda: no NVIDIA driver" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_options_come_from_environment_and_file(tmp_path, monkeypatch):
    """A flag wins over the environment, that over the file of --config, that over the default."""
    file = tmp_path / "server.yaml"
    file.write_text("max-batch: 3\nmax_queue_images: 7\nmodels: /from-file\n")
    monkeypatch.setenv("SERVER_MAX_BATCH", "5")
    config = ServerConfig(_cli_parse_args=["--config", str(file), "--max-message-mib", "9", "--threads", "3"])
    assert (config.max_batch, config.max_queue_images, config.max_message_mib, config.threads) == (5, 7, 9, 3)
    assert (str(config.models), config.max_megapixels, config.drain_seconds) == ("/from-file", 64, 10)
    assert config.settings()["max_batch"] == 5


def test_the_defaults_are_the_agreed_ones():
    """Ports on the loopback only, and limits as the interfaces page has them."""
    config = ServerConfig(models=Path("models"))
    assert config.model_dump(exclude={"models", "config"}) == {
        "listen": "127.0.0.1:50051",
        "metrics": "127.0.0.1:9100",
        "device": "auto",
        "precision": "auto",
        "max_batch": 16,
        "max_delay_ms": 0,
        "max_queue_ms": 500,
        "max_queue_images": 256,
        "max_queue_mib": 256,
        "max_message_mib": 32,
        "max_megapixels": 64,
        "drain_seconds": 10,
        "threads": "auto",
        "gpu_memory_mib": 0,
        "tf32": True,
        "reflection": True,
        "allow_empty": False,
        "watch": False,
        "log_format": "text",
        "trace_endpoint": "",
        "admin": "",
        "health": "",
        "tls_cert": None,
        "tls_key": None,
        "tls_client_ca": None,
        "token_file": None,
        "admin_token_file": None,
        "max_connection_calls": 1000,
        "connection_age_seconds": 1800,
        "connection_grace_seconds": 600,
        "model_memory_mib": 4096,
    }
    with pytest.raises(ValidationError, match="port"):
        ServerConfig(models=Path("models"), listen="127.0.0.1:70000")


def test_threads_follow_the_cpu_quota(tmp_path):
    """The quota of control groups, version 2 or 1, bounds the threads; without one the affinity does."""
    cores = len(os.sched_getaffinity(0))
    assert thread_count("auto", cgroup_root=tmp_path) == cores
    assert thread_count(7, cgroup_root=tmp_path) == 7
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert cpu_quota(tmp_path) is None
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert cpu_quota(tmp_path) == 1.5
    assert thread_count("auto", cgroup_root=tmp_path) == 1
    (tmp_path / "cpu.max").unlink()
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert cpu_quota(tmp_path) is None
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("50000")
    assert thread_count("auto", cgroup_root=tmp_path) == 1
