"""Whether a level can be believed."""
