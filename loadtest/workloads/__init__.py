"""What each request says: made ahead of the clock, a pure function of the seed."""
