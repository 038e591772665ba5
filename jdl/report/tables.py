"""A report in Markdown, and its tables of results in LaTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence

from jdl.report.document import MARK, Document, Section, Table

MARKDOWN = re.compile(r"([\\`*_{}\[\]<>()#|!~$&]|^[-+]|(?<=^\d)\.(?= ))")
LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "–": "--",
    "×": r"$\times$",
}


def markdown(document: Document) -> str:
    """The report in Markdown: sentences, tables and commands; without curves and figures."""
    lines = [f"<!-- {MARK} -->", "", f"# {markdown_text(document.title)}", ""]
    for section in document.sections:
        if not (section.has_curves or section.title == "Figures"):
            lines += _markdown_section(section)
    return "\n".join(lines).rstrip() + "\n"


def _markdown_section(section: Section) -> list[str]:
    lines = [f"## {section.title}", ""]
    for sentence in section.sentences:
        lines += [markdown_text(sentence), ""]
    for table in (*section.tables, *section.folded):
        if table.rows:
            lines += [f"{markdown_text(table.caption)}:", "", *_markdown_table(table), ""]
    if section.commands:
        fence = "`" * (1 + max(map(len, re.findall("`+", "\n".join(section.commands))), default=2))
        lines += [f"{fence}console", *section.commands, fence, ""]
    return lines


def _markdown_table(table: Table) -> list[str]:
    rows = [table.head, ["---"] * len(table.head), *table.rows]
    cells = [[one if row is rows[1] else markdown_text(one) for one in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in cells]


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is, in one line."""
    return MARKDOWN.sub(r"\\\1", " ".join(text.split()))


def latex(document: Document) -> str:
    """The tables of results, of differing fields and of the cost, for LaTeX with booktabs."""
    tables = [
        table
        for section in document.sections
        for table in section.tables
        if section.title in ("Results", "Cost") or table.caption.startswith("Fields in which")
    ]
    return "\n".join([f"% {MARK}", "% \\usepackage{booktabs}", *map(_latex_table, tables)]) + "\n"


def _latex_table(table: Table) -> str:
    rows = [_latex_row(row) for row in table.rows]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{latex_text(table.caption)}}}",
            rf"\begin{{tabular}}{{{'l' * len(table.head)}}}",
            r"\toprule",
            _latex_row(table.head),
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def _latex_row(row: Sequence[str]) -> str:
    return " & ".join(map(latex_text, row)) + r" \\"


def latex_text(text: str) -> str:
    """Text that LaTeX shows as it is, in one line."""
    return "".join(LATEX.get(letter, letter) for letter in " ".join(text.split()))
