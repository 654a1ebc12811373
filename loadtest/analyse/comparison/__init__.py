"""Whether runs differ, and whether they may be compared at all."""
