"""Bytes that are broken, cut off or lie: a refusal with a sentence, quickly, and nothing else."""

import io
import json
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from trapline import preprocessing
from trapline.errors import ImageTooLarge, ImageUnreadable

RULES = preprocessing.rules(fit="stretch", image_px=16)
# Pillow's warnings about odd files are errors in a test run; programs ignore them.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]


def encode(image: Image.Image, file_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def _small_files() -> dict[str, bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    tags = Image.Exif()
    tags[0x010F], tags[0x0110], tags[0x0112] = "Make", "Model", 6
    tags[0x8769] = {0xA431: "123", 0x9003: "2020:01:01 00:00:00"}
    exif = tags.tobytes()
    return {
        "jpeg": encode(image, "JPEG", exif=exif),
        "progressive": encode(image, "JPEG", progressive=True, exif=exif),
        "cmyk": encode(image.convert("CMYK"), "JPEG"),
        "png": encode(image, "PNG", exif=exif),
        "palette": encode(image.quantize(16), "PNG", transparency=3),
        "gif": encode(image, "GIF"),
        "animation": encode(image, "GIF", save_all=True, append_images=[image.rotate(90)]),
        "tiff": encode(image, "TIFF"),
        "tiff_lzw": encode(image, "TIFF", compression="tiff_lzw"),
        "tiff_16": encode(image.convert("L").convert("I;16"), "TIFF"),
        "webp": encode(image, "WEBP", exif=exif),
        "webp_lossless": encode(image, "WEBP", lossless=True),
        "bmp": encode(image, "BMP"),
        "mpo": encode(image, "MPO", save_all=True, append_images=[image]),
    }


SMALL_FILES = _small_files()


def png(width: int, height: int, body: bytes) -> bytes:
    """A 1-bit grey PNG that claims a size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def claim(name: str, side: int = 16000) -> bytes:
    """A small file whose header claims `side` × `side` pixels."""
    data = bytearray(SMALL_FILES[name])
    if name == "jpeg":
        struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, side, side)
    elif name == "gif":
        struct.pack_into("<HH", data, 6, side, side)
    elif name == "bmp":
        struct.pack_into("<ii", data, 18, side, side)
    elif name == "webp":
        data = bytearray(encode(Image.new("RGB", (16, 16)), "WEBP"))
        struct.pack_into("<HH", data, 26, side, side)
    else:
        entries = struct.unpack_from("<I", data, 4)[0]
        for place in range(entries + 2, entries + 2 + 12 * struct.unpack_from("<H", data, entries)[0], 12):
            tag, kind = struct.unpack_from("<HH", data, place)
            if tag in (256, 257):
                struct.pack_into("<H" if kind == 3 else "<I", data, place + 8, side)
    return bytes(data)


def bombs() -> dict[str, bytes]:
    made = {name: claim(name) for name in ("jpeg", "gif", "bmp", "webp", "tiff")}
    made["png of 65 bytes"] = png(60000, 60000, b"\x78\x9c\x03\x00\x00\x00\x00\x01")
    made["png whole"] = png(13000, 9000, zlib.compress(bytes((13000 // 8 + 1) * 9000)))
    return made


def test_a_claim_above_the_cap_is_refused_before_decoding():
    """Bombs of every format cost a header's reading: under a second and under 10 MiB together."""
    script = (
        "import base64, json, resource, sys, time\n"
        "from trapline import preprocessing; from trapline.errors import Refusal\n"
        "files = {name: base64.b64decode(text) for name, text in json.load(sys.stdin).items()}\n"
        "rules = preprocessing.rules(fit='stretch', image_px=16)\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "for name in [name for name in files if name.startswith('warm')]:\n"
        "    preprocessing.load_image(files.pop(name), rules)\n"
        "before, started, answers = peak(), time.perf_counter(), {}\n"
        "for name, data in files.items():\n"
        "    try: preprocessing.load_image(data, rules)\n"
        "    except Refusal as error: answers[name] = type(error).__name__\n"
        "json.dump([answers, peak() - before, time.perf_counter() - started], sys.stdout)\n"
    )
    import base64

    made = bombs()
    assert len(made["png of 65 bytes"]) == 65
    files = {f"warm {name}": data for name, data in SMALL_FILES.items()} | made
    text = json.dumps({name: base64.b64encode(data).decode() for name, data in files.items()})
    done = subprocess.run([sys.executable, "-c", script], input=text, capture_output=True, text=True, check=True)
    answers, grown_mib, seconds = json.loads(done.stdout)
    assert answers == dict.fromkeys(made, "ImageTooLarge")
    assert grown_mib < 10
    assert seconds < 1
    assert done.stderr == ""


def test_the_cap_is_met_exactly():
    """An image of exactly the cap is taken; one pixel less of cap, and it is refused with the limit."""
    data = SMALL_FILES["png"]
    assert preprocessing.load_image(data, RULES, max_pixels=480).shape == (16, 16, 3)
    with pytest.raises(ImageTooLarge, match=r"24 × 20|20 × 24") as refused:
        preprocessing.load_image(data, RULES, max_pixels=479)
    assert refused.value.metadata == {"limitPixels": "479"}
    assert "send a smaller one" in str(refused.value)


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"not an image" * 100, b"\xff\xd8\xff", b"GIF89a", b"RIFF\0\0\0\0WEBP", b"BM"]
)
def test_garbage_is_unreadable_and_the_sentence_says_what_to_send(data):
    """Bytes that are no image get a sentence without a path, an address or a Python repr."""
    with pytest.raises(ImageUnreadable) as refused:
        preprocessing.load_image(data, RULES)
    sentence = str(refused.value)
    assert "send" in sentence
    assert not any(leak in sentence for leak in ("0x", "<", "BytesIO", "PIL", "/"))


@pytest.mark.parametrize("name", ["jpeg", "progressive", "png", "gif", "tiff", "tiff_lzw", "webp", "bmp"])
def test_half_a_file_is_never_taken_for_a_whole_one(name):
    """Cut in the middle of its pixels, a file of any format is refused, by both entry points."""
    data = SMALL_FILES[name]
    start = data.index(b"\xff\xda") if name in ("jpeg", "progressive") else len(data) // 2
    for load in (preprocessing.load_image, preprocessing.load_image_and_exif):
        with pytest.raises(ImageUnreadable):
            load(data[: (start + len(data)) // 2 if start != len(data) // 2 else start], RULES)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(sorted(SMALL_FILES)),
    edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    in_header=st.booleans(),
    kept_share=st.one_of(st.just(1.0), st.floats(0, 1)),
)
@example(name="jpeg", edits=[], in_header=False, kept_share=1.0)
def test_broken_bytes_give_pixels_or_a_refusal(name, edits, in_header, kept_share):
    """Whatever is changed or cut off, the answer is an array or a refusal, and reading EXIF changes neither."""
    data = bytearray(SMALL_FILES[name])
    for place, value in edits:
        data[int(place * (min(len(data), 200) if in_header else len(data)))] = value
    broken = bytes(data[: int(len(data) * kept_share)])
    answers = []
    for load in (preprocessing.load_image, preprocessing.load_image_and_exif):
        try:
            answer = load(broken, RULES, max_pixels=1_000_000)
        except (ImageUnreadable, ImageTooLarge) as error:
            answers.append(str(error))
            continue
        pixels = answer[0] if isinstance(answer, tuple) else answer
        assert (pixels.shape, pixels.dtype) == ((16, 16, 3), np.uint8)
        answers.append(pixels.tobytes())
    assert answers[0] == answers[1]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    edits=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=8),
    name=st.sampled_from(["jpeg", "png", "webp"]),
)
def test_broken_exif_never_costs_the_photo(edits, name):
    """Only bytes inside the EXIF block change here: the photo still decodes, and EXIF is text or empty."""
    data = SMALL_FILES[name]
    start = data.index(b"II*\0") if b"II*\0" in data else data.index(b"MM\0*")
    length = data.index(b"2020:01:01") + 20 - start
    broken = bytearray(data)
    for place, value in edits:
        broken[start + place % length] = value
    if name == "png":  # its checksum covers the block
        chunk = data.index(b"eXIf")
        size = struct.unpack_from(">I", data, chunk - 4)[0]
        struct.pack_into(">I", broken, chunk + 4 + size, zlib.crc32(bytes(broken[chunk : chunk + 4 + size])))
    pixels, exif = preprocessing.load_image_and_exif(bytes(broken), RULES)
    assert pixels.shape == (16, 16, 3)
    assert exif.camera.isprintable()
    assert exif.taken.isprintable()


@pytest.mark.parametrize("code", [-9, -1, -2, -3, -8])
def test_a_codec_without_memory_says_nothing_of_the_image(monkeypatch, code):
    """Pillow tells a codec's lack of memory by an OSError like those for broken bytes; it is none of the image's."""

    def load(_image):
        raise ImageFile._get_oserror(code, encoder=False)

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    with pytest.raises(MemoryError if code == -9 else ImageUnreadable):
        preprocessing.load_image(SMALL_FILES["png"], RULES)
