"""What a run shows, in sentences that say how they are known."""
