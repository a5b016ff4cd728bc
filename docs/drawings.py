"""The drawings of the site as SVG, for light and dark pages: `python docs/drawings.py` writes docs/pictures/*.svg."""

from collections.abc import Sequence
from pathlib import Path

PICTURES = Path(__file__).parent / "pictures"
STYLE = """<style>
:root { --ink: #1f2430; --soft: #8a93a3; --ground: #f4f6fa; --one: #1f6fb8; --two: #d2691e; --three: #2a8a57; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ef; --soft: #8a93a3; --ground: #22262f; --one: #6cb2f0; --two: #f2a266; --three: #63c48f; }
}
text { font: 17px system-ui, "DejaVu Sans", sans-serif; fill: var(--ink); }
.code { font-family: ui-monospace, "DejaVu Sans Mono", monospace; }
.small { font-size: 15px; } .soft { fill: var(--soft); } .middle { text-anchor: middle; } .end { text-anchor: end; }
.box { fill: var(--ground); stroke: var(--soft); stroke-width: 1.3; }
.line { fill: none; stroke: var(--ink); stroke-width: 1.6; }
.thin { fill: none; stroke: var(--soft); stroke-width: 1.2; }
.dashed { stroke-dasharray: 4 4; } .thick { stroke-width: 2.6; }
.one { stroke: var(--one); } .two { stroke: var(--two); }
.of-one { fill: var(--one); } .of-two { fill: var(--two); } .of-three { fill: var(--three); }
</style>
<defs>
<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="9" markerHeight="9" markerUnits="userSpaceOnUse"
  orient="auto"><path d="M0 0L8 4L0 8z" style="fill: var(--ink)"/></marker>
</defs>"""


def text(x: float, y: float, words: str, kind: str = "") -> str:
    """Words at a place."""
    return f'<text x="{x:g}" y="{y:g}" class="{kind}">{words}</text>'


def path(points: Sequence[tuple[float, float]], kind: str = "line", tip: bool = False) -> str:
    """A line through points, with an arrow's tip where it is asked for."""
    places = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f'<path d="M{places}" class="{kind}"' + (' marker-end="url(#tip)"/>' if tip else "/>")


def box(x: float, y: float, width: float, height: float, depth: int = 0) -> str:
    """A box, with so many others behind it."""
    places = [(x + 5 * i, y - 5 * i) for i in range(depth, -1, -1)]
    size = f'width="{width:g}" height="{height:g}" rx="7" class="box"'
    return "".join(f'<rect x="{left:g}" y="{top:g}" {size}/>' for left, top in places)


def membranes(current: float, num_steps: int, initial: float) -> list[float]:
    """An integrate-and-fire neuron of threshold 1: its membrane after each step, before the reset."""
    membranes, u = [], initial
    for _ in range(num_steps):
        u = u - (u > 1) + current
        membranes.append(u)
    return membranes


def trace(x: float, y: float, step: float, height: float, values: Sequence[float]) -> str:
    """A membrane over time, its threshold `height` above y, and its spikes."""
    points = [(x, y - height * 0.5)]
    drawn = [path([(x, y - height), (x + step * len(values), y - height)], "thin dashed")]
    for number, u in enumerate(values):
        left, right = x + step * number, x + step * (number + 1)
        points += [(left, y - height * u), (right, y - height * u)]
        if u > 1:
            drawn.append(
                path(
                    [((left + right) / 2, y - 1.85 * height), ((left + right) / 2, y - 1.62 * height)], "line two thick"
                )
            )
    return "".join(drawn) + path(points, "line one")


def row(y: float, depth: int, names: Sequence[str]) -> str:
    """A network's function from left to right; the second of its boxes is left open for a curve."""
    places, drawn = [(84, 92), (214, 168), (420, 84), (542, 84)], []
    for (x, width), name in zip(places, names[1:-1], strict=True):
        half = 58 if not name else 30
        drawn += [box(x, y - half, width, 2 * half, depth), text(x + width / 2, y + 6, name, "middle")]
    edges = [52, *(edge for x, width in places for edge in (x, x + width)), 664]
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        drawn.append(path([(start + (5 * depth if start > 52 else 0) + 3, y), (end - 3, y)], tip=True))
    return "".join(drawn) + text(46, y + 6, names[0], "end") + text(670, y + 6, names[-1])


def transformation() -> str:
    """What the library does: a function with ReLUs becomes one over time, with neurons."""
    top, below, drawn = 104, 322, []
    drawn += [text(8, 26, "the function of an ANN", "soft"), row(top, 0, ["x", "Conv", "", "Pool", "Dense", "logits"])]
    drawn += [path([(232, top + 34), (362, top + 34)], "thin"), path([(297, top + 44), (297, top - 44)], "thin")]
    drawn += [
        path([(232, top + 34), (297, top + 34), (362, top - 36)], "line one thick"),
        text(228, top - 34, "ReLU", "small"),
    ]
    drawn += [path([(298, 172), (298, 232)], "line thick", tip=True), text(318, 208, "jsnn.spiking", "code of-two")]
    drawn += [text(8, 236, "the same, over time", "soft"), row(below, 3, ["x[t]", "Conv", "", "Pool", "Dense", "mean"])]
    drawn += [text(670, below + 28, "over t", ""), trace(226, below + 44, 18, 46, membranes(0.63, 8, 0.5))]
    drawn.append(text(230, below + 86, "threshold &#215; 5 spikes / 8 steps ≈ the value of the ReLU", "small"))
    return svg(736, 424, drawn)


def chunks() -> str:
    """How a presentation runs: chunks of time, layer by layer in each, states between them."""
    drawn, layers = [], ("input", "layer 1", "layer 2", "results")
    for chunk in range(3):
        left = 100 + 206 * chunk
        for number, _ in enumerate(layers):
            y = 250 - 66 * number
            drawn += [box(left + 37 * step, y, 31, 34) for step in range(4)]
            if number:
                drawn.append(path([(left + 71, y + 63), (left + 71, y + 39)], tip=True))
            if number in (1, 2) and chunk < 2:
                drawn.append(path([(left + 146, y + 17), (left + 202, y + 17)], "line one thick", tip=True))
        drawn.append(text(left + 71, 34, f"chunk {chunk + 1}", "middle soft"))
    drawn += [text(88, 272 - 66 * number, layer, "end") for number, layer in enumerate(layers)]
    drawn += [text(273, 173, "state", "middle small of-one"), path([(100, 306), (700, 306)], "thin", tip=True)]
    return svg(736, 336, [*drawn, text(700, 328, "time steps", "end small soft")])


def bits() -> str:
    """What is kept of a neuron for its gradient."""
    values, drawn, left, step = membranes(0.63, 8, 0.5), [], 210, 60
    drawn += [text(200, 92, "membrane", "end"), trace(left, 130, step, 56, values)]
    rows = (
        ("STDB: a bit", "of-two", [str(int(u > 1)) for u in values]),
        ("boxcar: two bits", "of-three", [f"{int(u > 1)} {int(abs(u - 1) < 0.25)}" for u in values]),
        ("others: a byte", "of-one", [f"{u - 1:+.2f}" for u in values]),
    )
    for number, (name, kind, kept) in enumerate(rows):
        y = 160 + 50 * number
        drawn.append(text(200, y + 25, name, "end"))
        for place, word in enumerate(kept):
            drawn += [
                box(left + step * place + 3, y, step - 6, 38),
                text(left + step * (place + 0.5), y + 25, word, f"middle code small {kind}"),
            ]
    return svg(736, 316, drawn)


def svg(width: int, height: int, drawn: Sequence[str]) -> str:
    """A picture of what is drawn."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
    return "\n".join([head, STYLE, *drawn, "</svg>\n"])


if __name__ == "__main__":
    for draw in (transformation, chunks, bits):
        (PICTURES / f"{draw.__name__}.svg").write_text(draw())
