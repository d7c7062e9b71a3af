"""`confined.py SETTINGS COMMAND…`: puts on what systemd makes of a unit's lines by seccomp, and becomes the command.

SETTINGS is JSON: `calls`, names of the system calls that are let through; `families`, numbers of the address families;
`write_execute`, whether memory may be both. systemd itself cannot run in a test; libseccomp, which it uses, can.
"""

import ctypes
import errno
import json
import os
import sys

_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_EQUAL, _MASKED = 4, 7
_WRITE, _EXECUTE = 2, 4
_MOST_FAMILIES = 46


class _Comparison(ctypes.Structure):
    _fields_ = (("argument", ctypes.c_uint), ("operator", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


class _Filter:
    """One filter of libseccomp; several that are loaded all hold."""

    def __init__(self, library, action):
        self._library = library
        library.seccomp_init.restype = ctypes.c_void_p
        self._filter = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(action)))

    def add(self, action, call, *comparisons):
        number = self._library.seccomp_syscall_resolve_name(call.encode())
        if number == -1:
            return  # of another architecture
        array = (_Comparison * len(comparisons))(*comparisons)
        code = self._library.seccomp_rule_add_array(
            self._filter, ctypes.c_uint32(action), number, len(comparisons), array
        )
        assert code == 0, f"{call}: {os.strerror(-code)}"

    def load(self):
        code = self._library.seccomp_load(self._filter)
        assert code == 0, os.strerror(-code)


def confine(settings):
    """Lets this process, and what it starts, do what the settings say and nothing else."""
    library = ctypes.CDLL("libseccomp.so.2")
    calls = _Filter(library, _ERRNO | errno.EPERM)
    for name in settings["calls"]:
        calls.add(_ALLOW, name)
    others = _Filter(library, _ALLOW)
    for family in set(range(_MOST_FAMILIES)) - set(settings["families"]):
        others.add(_ERRNO | errno.EAFNOSUPPORT, "socket", _Comparison(0, _EQUAL, family, 0))
    if not settings["write_execute"]:
        both = _WRITE | _EXECUTE
        others.add(_ERRNO | errno.EPERM, "mmap", _Comparison(2, _MASKED, both, both))
        for name in ("mprotect", "pkey_mprotect"):
            others.add(_ERRNO | errno.EPERM, name, _Comparison(2, _MASKED, _EXECUTE, _EXECUTE))
    others.load()
    calls.load()


if __name__ == "__main__":
    confine(json.loads(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])
