"""How thoroughly hypothesis looks for an input that breaks a property."""

from hypothesis import settings

many = settings(max_examples=200, deadline=None, derandomize=True)
