"""What a server would do at loads and slots that were not measured."""
