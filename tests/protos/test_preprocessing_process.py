"""What only a process shows: many threads at once, and what is printed."""

import base64
import hashlib
import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import ExifTags, Image

from trapline import preprocessing

OPTIONS = {"WEBP": {"lossless": True}, "TIFF": {"compression": "tiff_lzw"}}


def encode(pixels: np.ndarray, file_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, file_format, **options)
    return buffer.getvalue()


def smooth(width: int, height: int) -> np.ndarray:
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.stack([across, down, 255 - across], axis=2).round().astype(np.uint8)


def test_eight_threads_get_what_one_gets():
    """Decoding is safe from many threads, the first calls of a process included."""
    script = (
        "import io, sys, hashlib; from concurrent.futures import ThreadPoolExecutor; import threading\n"
        "from trapline import preprocessing; from PIL import Image; import numpy as np, base64\n"
        "files = [base64.b64decode(line) for line in sys.stdin]\n"
        "rules = preprocessing.rules(fit='letterbox', image_px=32); together = threading.Barrier(8)\n"
        "def work(seat):\n"
        "    together.wait()\n"
        "    return [preprocessing.load_image(data, rules).tobytes() for data in files]\n"
        "with ThreadPoolExecutor(8) as pool: answers = list(pool.map(work, range(8)))\n"
        "assert all(answer == answers[0] for answer in answers)\n"
        "print(hashlib.sha256(b''.join(answers[0])).hexdigest())\n"
    )
    files = [
        encode(smooth(200, 150), name, **OPTIONS.get(name, {}))
        for name in ("TIFF", "WEBP", "JPEG", "PNG", "GIF", "BMP")
    ]
    lines = b"\n".join(base64.b64encode(data) for data in files)
    answer = subprocess.run([sys.executable, "-c", script], input=lines, capture_output=True, check=True)
    letterbox = preprocessing.rules(fit="letterbox", image_px=32)
    expected = hashlib.sha256(b"".join(preprocessing.load_image(data, letterbox).tobytes() for data in files))
    assert answer.stdout.decode().strip() == expected.hexdigest()
    with ThreadPoolExecutor(8) as pool:
        loaded = list(pool.map(lambda data: preprocessing.load_image(data, letterbox), files * 10))
    for index, pixels in enumerate(loaded):
        np.testing.assert_array_equal(pixels, loaded[index % len(files)])


def test_an_odd_file_prints_nothing_on_stderr():
    """What Pillow warns about, file by file, stays out of a program's output."""
    script = (
        "import sys; from trapline import preprocessing\n"
        "data = sys.stdin.buffer.read()\n"
        "print(preprocessing.load_image(data, preprocessing.rules(fit='stretch', image_px=8)).shape)\n"
    )
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = 6
    broken = tags.tobytes()[:-14] + b"\xff\xff"
    data = encode(smooth(24, 17), "JPEG", exif=broken)
    answer = subprocess.run([sys.executable, "-c", script], input=data, capture_output=True, check=True)
    assert answer.stdout.strip() == b"(8, 8, 3)"
    assert answer.stderr == b""
