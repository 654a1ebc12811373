"""Predictions said beforehand and kept, and how good they were."""
