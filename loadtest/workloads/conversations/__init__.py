"""What people say in turns: conversations made up or recorded, and their history as bytes."""
