"""Will it fit: what a model takes in memory, from facts alone."""
