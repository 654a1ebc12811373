"""The files of a run folder, read and checked: run.json, the requests, what monitors sampled."""
