"""A server as a run shows it, played in virtual time at loads that were not measured."""
