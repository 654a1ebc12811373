"""What server is this, and what is asked of it: settled before the clock."""
