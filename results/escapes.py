"""Text from outside, such as names, as each kind of document takes it: shown as it is, and never obeyed."""

from __future__ import annotations

import re

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"{\char34}",  # a quote is a command of some languages
    "`": r"{\char96}",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
}


def printable(text: str) -> str:
    """A name with what no terminal can show written as escapes: file names may hold anything."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def markdown_text(text: str) -> str:
    """Text as one cell of a Markdown table, without markup, HTML or mathematics."""
    marked = re.sub(r"([\\`*_\[\]|$~])", r"\\\1", printable(" ".join(text.splitlines())))
    return marked.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def latex_text(text: str) -> str:
    """Text as LaTeX sets it. Other scripts need XeLaTeX or LuaLaTeX and a font that has them."""
    return "".join(_LATEX.get(letter, letter) for letter in printable(" ".join(text.splitlines())))


def csv_text(text: str) -> str:
    """Text as a cell of CSV that no spreadsheet takes for a formula: such a one gets an apostrophe in front."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else text
