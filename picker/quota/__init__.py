"""Rate limits that replicas share: the store they are counted in, and what asks it for the core."""
