"""Marks for tests that need a special build of the core."""

import pytest

from picker._core import alloc

debug_build_only = pytest.mark.skipif(
    not alloc.is_debug_build(), reason="allocations fail on demand only in the debug build: run `make test-debug`"
)
