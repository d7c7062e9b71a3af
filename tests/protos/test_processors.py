import pytest

from trapline.processors import adds_int8_products_exactly


@pytest.mark.parametrize(
    ("machine", "flags", "exact"),
    [
        ("x86_64", "fpu avx2 avx512f avx512_vnni avx512_bf16", True),
        ("x86_64", "fpu avx2 avx_vnni", True),
        ("AMD64", "fpu avx512f amx_int8", True),
        ("x86_64", "fpu sse4_1 avx2 avx512f avx512bw", False),
        ("aarch64", "fp asimd", True),
    ],
)
def test_processors_that_saturate_are_known_by_their_flags(tmp_path, machine, flags, exact):
    """x86 without VNNI or AMX cuts sums of int8 products off; other architectures do not."""
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nmodel name\t: any\nflags\t\t: {flags}\n")
    assert adds_int8_products_exactly(cpuinfo, machine=machine) is exact


def test_an_unknown_x86_processor_is_taken_for_one_that_saturates(tmp_path):
    """Without the kernel's list the slower, exact way is taken."""
    assert not adds_int8_products_exactly(tmp_path / "absent", machine="x86_64")
