"""What every wire format is read with: lines, JSON, text, counts and ends of an answer, and the words of a server that errs."""
