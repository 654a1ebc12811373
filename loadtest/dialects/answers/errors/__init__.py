"""What a server says when something is wrong, as one sentence: errors, refused fields, redirects."""
