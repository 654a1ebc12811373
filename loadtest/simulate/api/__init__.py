"""How the simulated server is asked and answers: HTTP, request bodies, and answers byte for byte."""
