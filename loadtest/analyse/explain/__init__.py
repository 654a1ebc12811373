"""Why one request took as long as it did, and what it would have been without its causes."""
