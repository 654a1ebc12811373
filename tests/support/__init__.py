"""Servers, runs and clients that several tests use."""
