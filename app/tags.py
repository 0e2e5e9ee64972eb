"""
The tags in a note's text: `#word` in Markdown, outside code, links' targets and HTML.

A tag begins a line or follows a space or an opening bracket, holds a letter or a sign, and may have levels between
slashes. Those in front matter are no text: `store.fields` finds them in the metadata.
"""

from __future__ import annotations

import re

from markdown_it import MarkdownIt
from markdown_it.token import Token

from app.documents import Document

_TAG = re.compile(r"""(?<![^\s(\[,;])#([^\s\0#,;:.!?()\[\]{}"'`<>@&*+=$%^|\\~]+)""")
_NO_NUMBER = re.compile(r"[^\d/_-]")
_OPAQUE = {"code_inline", "html_inline", "image"}


def text_tags(document: Document) -> list[str]:
    """The tags in a document's text, each once, in the order in which they come, as they are written."""
    if document.kind != "markdown" or not _TAG.search(document.text, document.body_start):
        return []
    blocks = MarkdownIt("commonmark").parse(document.text[document.body_start :])
    found = [tag for block in blocks if block.children for tag in _TAG.findall(_plain(block.children))]
    return list(dict.fromkeys(tag for tag in found if _NO_NUMBER.search(tag)))


def _plain(inline: list[Token]) -> str:
    """The words of a paragraph or heading; a zero byte stands for what is none."""
    parts = []
    for token in inline:
        if token.type in ("softbreak", "hardbreak"):
            parts.append("\n")
        else:
            parts.append("\0" if token.type in _OPAQUE else token.content)
    return "".join(parts)
