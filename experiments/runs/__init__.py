"""Plumbing of a run: its folder, checkpoints, epochs, command line."""
