"""What a server keeps of prompts that it has read: how many tokens came from its cache, and what losing them cost."""
