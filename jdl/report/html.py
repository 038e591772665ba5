"""A report as one HTML page: everything is in it, and everything that came from runs is escaped."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from jdl.report.document import MARK, Document, Picture, Section, Table

PARTS, FILES = Path(__file__).parent, ("page.css", "curves.js", "page.js")
LONG = 40  # characters of a cell beyond which it has several lines


def html(document: Document, curves: Mapping[str, Any], live: bool = False) -> str:
    """The page. Its policy (CSP) lets it run its own script alone, and fetch nothing."""
    style, *scripts = ((PARTS / name).read_text("utf-8") for name in FILES)
    script = "\n".join(scripts)
    connect = "'self'" if live else "'none'"
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
        f"img-src data:; connect-src {connect}; "
        "base-uri 'none'; form-action 'none'"
    )
    contents = "".join(
        f'<a href="#{_anchor(one)}">{escape(one.title)}</a>' for one in document.sections
    )
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta name="generator" content="{MARK}">',
            f"<title>{escape(document.title)}: report</title>",
            f'<link rel="icon" href="data:,">\n<style>{style}</style>\n</head>\n<body>\n<main>',
            f"<h1>{escape(document.title)}</h1>",
            f'<nav aria-label="Sections">{contents}</nav>',
            *(_section(one) for one in document.sections),
            f'</main>\n<script id="curve-data" type="application/json">{_json(curves)}</script>',
            f"<script>{script}</script>\n</body>\n</html>\n",
        ]
    )


def _section(section: Section) -> str:
    anchor = _anchor(section)
    parts = [f'<section aria-labelledby="{anchor}"><h2 id="{anchor}">{escape(section.title)}</h2>']
    parts += [f"<p>{escape(sentence)}</p>" for sentence in section.sentences]
    parts += [_table(table) for table in section.tables]
    if section.has_curves:
        parts.append('<div id="charts"><noscript>The curves need JavaScript.</noscript></div>')
    if section.pictures:
        parts.append(f'<div class="pictures">{"".join(map(_picture, section.pictures))}</div>')
    if section.commands:
        commands = escape("\n".join(section.commands))
        parts.append(f'<pre tabindex="0" aria-label="Commands">{commands}</pre>')
    for table in section.folded:
        if table.rows:
            parts.append(
                f"<details><summary>{escape(table.caption)}</summary>{_table(table)}</details>"
            )
    return "\n".join([*parts, "</section>"])


def _anchor(section: Section) -> str:
    return section.title.lower()


def _table(table: Table) -> str:
    """A table that scrolls by itself where it is wider than the page."""
    if not table.rows:
        return ""
    caption = escape(table.caption)
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in table.head)
    rows = "".join(f"<tr>{_row(row)}</tr>" for row in table.rows)
    return (
        f'<div class="table" tabindex="0" role="region" aria-label="{caption}"><table>'
        f"<caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody>"
        "</table></div>"
    )


def _row(row: Sequence[str]) -> str:
    first = f'<th scope="row">{escape(row[0])}</th>'
    kinds = (" class=long" if len(cell) > LONG else "" for cell in row[1:])
    return first + "".join(
        f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(kinds, row[1:], strict=True)
    )


def _picture(picture: Picture) -> str:
    content = base64.b64encode(picture.content).decode()
    return (
        f'<figure><img src="data:{picture.kind};base64,{content}" alt="{escape(picture.alt)}" '
        f'width="{picture.width}" height="{picture.height}">'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
    )


def _json(value: Any) -> str:
    """JSON that no HTML can be in."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def _hash(text: str) -> str:
    """The source of a policy that allows exactly this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
