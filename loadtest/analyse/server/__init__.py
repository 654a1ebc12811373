"""What a run shows of the server."""
