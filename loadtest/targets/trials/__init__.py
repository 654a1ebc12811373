"""Small requests until one is answered, as `loadtest check --try` sends them, and what the answer shows."""
