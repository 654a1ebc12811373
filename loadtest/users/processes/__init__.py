"""What each process of a Locust test does: the one that controls it, its workers, their records and how they end."""
