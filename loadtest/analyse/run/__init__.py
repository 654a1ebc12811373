"""A run folder as arrays."""
