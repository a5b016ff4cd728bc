"""The programs of a preset compiled for accelerators that are not there."""
