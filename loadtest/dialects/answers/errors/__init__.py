"""What a server says when something is wrong, as one sentence: in rows and bodies, in headers, of refused fields."""
