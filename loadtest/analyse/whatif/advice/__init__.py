"""How many slots to set, how much load they carry, and what binds first."""
