"""HTML: the words of a page at the lines of its source; what is not read by a person is out."""

from __future__ import annotations

import pytest

from app.formats.html import extract, read
from tests.test_formats import paths, rows


def test_a_page_is_its_words_at_the_lines_of_its_source() -> None:
    page = """<!DOCTYPE html>
<html><head><title>The &amp; house</title><style>p { color: red }</style>
<body>
<nav><a href="/">Home</a></nav>
<h1>Boiler <em>room</em></h1>
<p>Serviced on <b>14&nbsp;March</b>
   by Hansen &amp;
   Son.<br>Every year.
<ul>
  <li><p>one</p></li>
  <li>two
    <ol><li>inner</ol>
</ul>
<table><tr><th>part<th>price</tr>
<tr><td>valve</td><td><p>30</p></td></tr></table>
<h2>Code</h2>
<pre>make
  test &lt;x&gt;</pre>
<script>document.write("<p>no</p>")</script>
</body></html>"""
    content = read(page.encode())
    assert content.title == "The & house"
    assert rows(content) == [
        (5, "# Boiler room"),
        (6, "Serviced on 14 March by Hansen & Son."),
        (8, "Every year."),
        (10, "- one"),
        (11, "- two"),
        (12, "  1. inner"),
        (14, "part | price"),
        (15, "valve | 30"),
        (16, "## Code"),
        (17, "```"),
        (17, "make"),
        (18, "  test <x>"),
        (18, "```"),
    ]
    assert paths(content) == [["Boiler room"], ["Boiler room", "Code"]]


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("<main>", ""),
        ("menu<main><p>words</main>footer", "words"),
        ("words<main></main>", "words"),
        ("<div hidden>no</div><span style='display: none'>no</span><div aria-hidden=\"true\">no</div>words", "words"),
        ("<div><div hidden><div>no</div>no</div>words", "words"),
        ("<!-- no -->words<!-- no", "words"),
        ("<a href=\"a>b\" title='c>d'>words</a>", "words"),
        ("a < b & c &copy; AT&T &#x41; &#0;", "a < b & c © AT&T A \ufffd"),
        ("<![if x]><p>words<![endif]><?xml ?><o:p></o:p>", "words"),
        ("words<", "words<"),
        ("words<a href='", "words"),
        ("words<script>never closed", "words"),
        ("<h1>One<h2>Two", "# One\n\n## Two"),
        ("<h1><div>One</div></h1>", "# One"),
        ("con<b>tin</b>ued", "continued"),
        ("</ul></li></td></table></pre></main>words", "words"),
    ],
)
def test_whatever_is_broken_or_hidden_the_words_are_read(source: str, text: str) -> None:
    assert extract(source).text.strip() == text


def test_a_page_is_read_in_the_encoding_that_it_declares() -> None:
    page = '<meta http-equiv="Content-Type" content="text/html; charset=iso-8859-2"><p>Łódź żółw</p>'
    assert read(page.encode("iso-8859-2")).text.strip() == "Łódź żółw"
    assert read(page.replace("iso-8859-2", "no-such").encode()).text.strip() == "Łódź żółw"


@pytest.mark.parametrize("encoding", ["utf-16", "UTF16", "utf-16le", "utf-16be", "utf-32", "unicode"])
@pytest.mark.parametrize("space", ["", " "])
def test_a_page_that_can_say_that_it_is_utf_16_is_not(encoding: str, space: str) -> None:
    """XSLT and .NET write it into what they save as UTF-8; of an even length they can be read in it."""
    data = f'<META http-equiv="Content-Type" content="text/html; charset={encoding}"><p>Łódź żółw</p>{space}'.encode()
    assert read(data).text.strip() == "Łódź żółw"
    assert read(data.decode().encode("utf-16")).text.strip() == "Łódź żółw"  # with its mark


@pytest.mark.parametrize("encoding", ["iso-8859-1", "latin1", "ascii", "US-ASCII", "windows-1252"])
def test_a_page_in_latin_1_has_the_quotes_and_dashes_of_windows(encoding: str) -> None:
    page = f"<meta charset={encoding}><p>\u201cdéjà vu\u201d \u2013 30 \u20ac</p>"
    assert read(page.encode("cp1252")).text.strip() == "\u201cdéjà vu\u201d \u2013 30 \u20ac"
    assert read(page.encode()).text.strip() == "\u201cdéjà vu\u201d \u2013 30 \u20ac"  # saved again as UTF-8


@pytest.mark.parametrize("encoding", ["utf-8", "iso-8859-2"])
def test_a_mark_of_utf_8_says_more_than_what_a_page_declares(encoding: str) -> None:
    assert read(f"<meta charset={encoding}>Łódź".encode("utf-8-sig")).text == "Łódź"
