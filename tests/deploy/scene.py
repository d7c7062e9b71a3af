"""The stage of the live test of alerts: Prometheus, the programs that it reads, phases that end what they began."""

import contextlib
import signal
import socket
import time
from pathlib import Path

import numpy as np
from modules import module_at
from PIL import Image

FACTOR = 30


PROMETHEUS = module_at(Path(__file__).with_name("prometheus.py"))
FAULTS = module_at(Path(__file__).with_name("faults.py"))
KIT, Program, Callers = FAULTS.KIT, FAULTS.Program, FAULTS.Callers


class Scene:
    """Programs that Prometheus reads, and the alerts that were seen to fire, each as Prometheus tells of it."""

    def __init__(self, folder, stack):
        self._folder, self._stack, self._count = folder, stack, 0
        self._targets = {"trapline-server": [], "trapline-trainer": []}
        self.seen = {}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        rules = PROMETHEUS.faster(PROMETHEUS.shipped(), FACTOR)
        (folder / "prometheus").mkdir()
        self.prometheus = PROMETHEUS.Prometheus(folder / "prometheus", rules, port, list(self._targets))
        stack.callback(self.prometheus.close)

    def folder(self):
        """A new folder."""
        self._count += 1
        path = self._folder / str(self._count)
        path.mkdir()
        return path

    def server(self, content=None, *options, model="colours"):
        """A server of one model that serves, and its folder of models."""
        folder = self.folder()
        (folder / "models").mkdir()
        if content is not None:
            KIT.publish(folder / "models", model, 1, content)
        words = ("--models", folder / "models", "--device", "cpu", "--threads", "1", "--model-memory-mib", "0")
        return self._started(Program(folder, ("server", "run"), *words, *options)), folder

    def trainer(self, *options):
        """A train service, and its folder."""
        folder = self.folder()
        _photos(folder / "data")
        words = ("--data-root", folder / "data", "--runs-root", folder / "runs", "--gpus", "none")
        return self._started(
            Program(folder, ("trainer", "serve"), *words, "--cache-dir", folder / "cache", *options)
        ), folder

    def _started(self, program):
        self._stack.callback(program.end, signal.SIGKILL)
        return program.start()

    def callers(self, *arguments, **options):
        """Callers until the phase ends."""
        found = Callers(*arguments, **options)
        self._stack.callback(found.close)
        return found

    def read(self, job, *programs):
        """Has Prometheus read these programs as the job, and no other."""
        self.prometheus.scrape(job, *[program.metrics for program in programs])

    def quiet(self, seconds):
        """Nothing fires for so long, while there is something to look at."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert not self.prometheus.firing()
            time.sleep(0.5)

    def sees(self, expression, seconds=30):
        """Waits until Prometheus finds that it is so."""
        end = time.monotonic() + seconds
        while not self.prometheus.ask(expression):
            assert time.monotonic() < end, expression
            time.sleep(0.3)

    def fires(self, *names, seconds=240):
        """Waits until each of the alerts fires; gives them by name."""
        end, left = time.monotonic() + seconds, set(names)
        while left:
            now = self.prometheus.firing()
            for name in left & set(now):
                self.seen[name] = now[name][0]
            left -= set(now)
            assert time.monotonic() < end, (left, self.prometheus.ask('ALERTS{alertname=~"Trapline.*"}'))
            time.sleep(0.3)


def _photos(data):
    chance = np.random.default_rng(0)
    for label, colour in (("red", (200, 40, 40)), ("green", (40, 200, 40))):
        (data / "good" / label).mkdir(parents=True)
        (data / "bad" / label).mkdir(parents=True)
        for number in range(12):
            pixels = np.clip(np.array(colour) + chance.integers(-60, 60, (48, 48, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(data / "good" / label / f"{number}.png")
            (data / "bad" / label / f"{number}.png").write_bytes(b"no picture")


def phase(scene):
    """What is started until it ends is ended then."""
    return _Phase(scene)


class _Phase:
    def __init__(self, scene):
        self._scene, self._stack, self._before = scene, contextlib.ExitStack(), scene._stack

    def __enter__(self):
        self._scene._stack = self._stack
        return self._scene

    def __exit__(self, *error):
        self._scene._stack = self._before
        return self._stack.__exit__(*error)
