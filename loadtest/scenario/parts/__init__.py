"""The parts of a scenario: its keys, each declared once."""
