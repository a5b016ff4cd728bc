"""Which shapes fit others."""


def is_broadcastable(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    """Whether an array of a shape can be broadcast to another, which keeps its own."""
    sizes = zip(shape[::-1], to[::-1], strict=False)
    return len(shape) <= len(to) and all(size in (1, of) for size, of in sizes)
