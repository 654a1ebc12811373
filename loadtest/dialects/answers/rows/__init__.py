"""The rows of an answer, as each API sends them: where they stand, which API's they are, their text, their counts."""
