"""The live figures of a Locust test: added up, shown, exported and held against gates."""
