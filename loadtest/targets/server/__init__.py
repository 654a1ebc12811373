"""What answers at a URL: its kind, models, slots and context, or why there is no answer to be had."""
