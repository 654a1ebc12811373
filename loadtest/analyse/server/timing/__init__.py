"""What steps and prompts take, from the gaps between tokens."""
