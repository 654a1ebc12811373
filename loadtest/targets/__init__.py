"""What server is this, and what is asked of it: found out before the clock starts."""
