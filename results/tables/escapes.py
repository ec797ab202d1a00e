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


_MARKUP = re.compile(r"([\\`*\[\]|$~]|(?<![^\W_])_+|_+(?![^\W_])|^>|^[#+-]+(?=\s|$))")
"""What Markdown takes for markup: an underscore only at the edge of a word, some signs only in front."""


def markdown_text(text: str) -> str:
    """Text in one line or cell of Markdown, without markup, HTML or mathematics, and as readable as it is without."""
    line = printable(" ".join(text.splitlines()))
    marked = _MARKUP.sub(lambda found: "".join(f"\\{sign}" for sign in found[0]), line)
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", re.sub(r"&(?=#?\w+;)", "&amp;", marked))


def latex_text(text: str) -> str:
    """Text as LaTeX sets it. Other scripts need XeLaTeX or LuaLaTeX and a font that has them."""
    return "".join(_LATEX.get(letter, letter) for letter in printable(" ".join(text.splitlines())))


def csv_text(text: str) -> str:
    """Text as a cell of CSV that no spreadsheet takes for a formula: such a one gets an apostrophe in front."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else text
