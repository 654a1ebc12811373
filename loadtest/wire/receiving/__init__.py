"""An answer as it is received: taken out of its HTTP framing, looked through for its end, each read with its instant."""
