"""A report's page: a template filled in, in our colours, with nothing in it that points outside."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from r1mega.track.palette import DARK, LIGHT, css_variables, themed


def page(template: str, content: Mapping[str, Any]) -> str:
    """The HTML of a template of this folder; everything in `content` is escaped but `inline` charts."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    colours = {"light": css_variables(LIGHT), "dark": css_variables(DARK)}
    return environment.get_template(template).render(**colours, **content)


def inline(svg: str) -> Any:
    """Our own chart, coloured by the page's variables and marked as markup that is not escaped."""
    from markupsafe import Markup

    return Markup(themed(svg))  # safe: drawn by us, and matplotlib escapes the text in it
