"""What every wire format is read with: lines, JSON, text, counts and ends of an answer, and the server's error messages."""
