"""Who waited for what: slots, requests at work and waiting, and what kept the others out."""
