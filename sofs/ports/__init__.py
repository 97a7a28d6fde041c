"""What services need of the world, as protocols: clock, entropy, blocking work, store, logs, state,
streams."""
