"""A batching model server without sockets: its clock is the caller's."""
