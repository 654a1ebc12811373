"""What a model takes of the memory of its server, and how long it takes to get there."""
