"""Builds the Cython core: every `picker/_core/*.pyx` becomes one extension module.

Knobs (environment, `1` = on): PICKER_DEBUG bounds checks, live-block counting, failing allocations;
PICKER_SANITIZE ASAN + UBSAN; PICKER_TRACE line tracing for coverage.
"""

import contextlib
import io
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from Cython.Build import cythonize
from Cython.Compiler import Options
from setuptools import Extension, setup


def on(name: str) -> bool:
    return os.environ.get(name, "") == "1"


DEBUG, SANITIZE, TRACE = on("PICKER_DEBUG"), on("PICKER_SANITIZE"), on("PICKER_TRACE")
CFLAGS = ["-std=c11", "-g1", "-Wall", "-fno-strict-aliasing", "-Wno-unused-function"]
CFLAGS += ["-Wno-sign-compare", "-Wno-discarded-qualifiers"]  # of temporaries Cython makes
CFLAGS += ["-O1"] if DEBUG or SANITIZE else ["-O3"]
CFLAGS += ["-fsanitize=address,undefined", "-fno-omit-frame-pointer"] if SANITIZE else []
LDFLAGS = ["-fsanitize=address,undefined"] if SANITIZE else []
MACROS = [("PICKER_DEBUG", "1" if DEBUG else "0")] + ([("CYTHON_TRACE_NOGIL", "1")] if TRACE else [])
LIBRARIES = {"calls": ["nghttp2"], "h2": ["nghttp2"]}
DIRECTIVES = {
    "language_level": 3,
    "binding": True,
    "embedsignature": True,
    "cdivision": True,
    "wraparound": False,
    "boundscheck": DEBUG,
    "initializedcheck": DEBUG,
    "linetrace": TRACE,
}


def require_libraries() -> None:
    """Ends with the one line that installs what is missing, rather than with a compiler's hundred."""
    compiler = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    probe = ["sh", "tools/libraries.sh", *sorted({name for names in LIBRARIES.values() for name in names})]
    if subprocess.run(probe, env={**os.environ, "CC": compiler}, check=False).returncode:  # noqa: S603
        raise SystemExit(1)


class Tee(io.TextIOBase):
    """Passes Cython's messages on and keeps them, so that a performance hint can fail the build."""

    def __init__(self) -> None:
        self.kept: list[str] = []

    def write(self, text: str) -> int:
        self.kept.append(text)
        return sys.__stderr__.write(text) if sys.__stderr__ else len(text)


def core() -> list[Extension]:
    """A hint means a `nogil` function takes the GIL back at each call: `noexcept` was forgotten."""
    require_libraries()
    Options.warning_errors = True
    sources = sorted(Path("picker/_core").glob("*.pyx"))
    extensions = [
        Extension(
            f"picker._core.{source.stem}",
            [str(source)],
            define_macros=MACROS,
            libraries=LIBRARIES.get(source.stem, []),
            extra_compile_args=CFLAGS,
            extra_link_args=LDFLAGS,
        )
        for source in sources
    ]
    messages = Tee()
    with contextlib.redirect_stderr(messages), contextlib.redirect_stdout(messages):
        built: list[Extension] = cythonize(extensions, compiler_directives=DIRECTIVES, force=TRACE)
    if "performance hint" in "".join(messages.kept).lower():
        raise SystemExit("setup.py: Cython gave a performance hint (see above); declare the function noexcept")
    return built


setup(ext_modules=core(), options={"build_ext": {"parallel": os.cpu_count() or 1}})
