"""What people say in turns: conversations made up or recorded, their history as bytes, and the time they think."""
