"""Experiments on jsnn: presets, the stages of a run as commands, plots and reports."""
