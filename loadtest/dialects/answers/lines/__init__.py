"""Lines out of bytes, which of them are signs of life only, and the JSON that they hold."""
