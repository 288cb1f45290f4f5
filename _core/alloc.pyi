def is_debug_build() -> bool:
    """True when blocks are counted and allocations can be made to fail (PICKER_DEBUG=1)."""

def live_blocks() -> int:
    """Blocks handed out and not freed; always 0 outside the debug build."""

def fail_allocation(after: int) -> bool:
    """Make the allocation after `after` further ones fail once; -1 switches it off. Debug build only.

    Whether one that was told to fail before has not come yet.
    """
