"""How a connection is opened: the addresses of a name, the way through a proxy, TLS."""
