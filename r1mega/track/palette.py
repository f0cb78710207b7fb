"""The report's colours, on light ground and on dark.

Charts are drawn in the light colours; in the report each of them is replaced by the CSS variable of
its name, and so follows the reader's setting. That asks for every light colour to be used for one
thing only.
"""

LIGHT = {
    "ink": "#1f2328",
    "muted": "#656d77",
    "grid": "#e3e6ea",
    "ground": "#fdfdfc",
    "card": "#f5f6f4",
    "c0": "#2a5f9e",
    "c1": "#c7592d",
    "c2": "#3f8f6b",
    "c3": "#8a5aa8",
    "c4": "#b08a1e",
    "c5": "#5aa3b5",
    "c6": "#b5476a",
    "c7": "#9aa1a9",
}

DARK = {
    "ink": "#e4e6e9",
    "muted": "#9aa3ad",
    "grid": "#30363d",
    "ground": "#14171a",
    "card": "#1c2024",
    "c0": "#79aee8",
    "c1": "#eb8a60",
    "c2": "#74c69d",
    "c3": "#c199de",
    "c4": "#dcb955",
    "c5": "#86cddd",
    "c6": "#e6819f",
    "c7": "#727b85",
}

SERIES = tuple(name for name in LIGHT if name[0] == "c" and name[1:].isdigit())
"""Names of the colours that lines and areas take, in order."""


def themed(svg: str) -> str:
    """An SVG drawn in the light colours, with every one of them replaced by its CSS variable."""
    for name, colour in LIGHT.items():
        svg = svg.replace(colour, f"var(--{name})")
    return svg


def css_variables(colours: dict[str, str]) -> str:
    """The colours as declarations for a CSS rule."""
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())
