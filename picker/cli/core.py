"""Makes sure the compiled core loads before anything is served. There is no slower stand-in, on purpose."""

import importlib
import importlib.util
import platform
import sys
from pathlib import Path

from picker.errors import CoreUnavailable

__all__ = ["require_core"]


def require_core(package: str = "picker._core") -> None:
    """Imports every module of the core (each `.pyi` promises one). Raises `CoreUnavailable`, saying the fix."""
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    root = Path(folders[0]).parents[package.count(".")] if folders else None
    names = sorted({stub.stem for folder in folders for stub in Path(folder).glob("[a-z]*.pyi")})
    if not names:
        raise CoreUnavailable(f"the compiled core {package} is not installed; {_fix(root)}")
    for name in names:
        try:
            importlib.import_module(f"{package}.{name}")
        except Exception as problem:  # a wheel for another Python or machine fails in many ways
            what = f"{package}.{name}: {type(problem).__name__}: {problem}"
            raise CoreUnavailable(f"the compiled core does not load: {what}; {_fix(root)}") from problem


def _fix(root: Path | None) -> str:
    here = f"Python {platform.python_version()} on {sys.platform} {platform.machine()}"
    if root is not None and Path(root, "setup.py").exists():
        return f"this is a source checkout: run 'python setup.py build_ext --inplace' with this interpreter ({here})"
    return f"run 'pip install --force-reinstall picker' so that the wheel matches this interpreter ({here})"
