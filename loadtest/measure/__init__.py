"""What both drivers share: a request and its record, what waits, what is kept, when requests leave, which level comes next."""
