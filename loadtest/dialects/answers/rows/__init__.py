"""The rows of an answer, as each API sends them: where they stand, their text, their counts."""
