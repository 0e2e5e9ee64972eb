"""Questions made from text: their answers stand where they say, and are what a person would call one."""

import json
import random
from pathlib import Path

import pytest

from export.data import load_passages, load_tokenizer
from export.synthesis import mention, questions_of, write_questions
from store.errors import ExportError
from tests.tiny import checkpoint

ARTICLES = {
    "Politician": "A politician (from Greek) is a person active in party politics, or a person seeking office. More.",
    "Reign": "A reign is the period of time that a monarch rules over a country. It can also mean more.",
    "Baden-Baden": "Baden-Baden is a spa town with around 50,000 inhabitants in Baden-Württemberg, Germany.",
    "U.S. Route 1": "U.S. Route 1 is a road of the U.S. state of Maine. It is long.",
    "Robert Fulton": "Robert Fulton (November 14, 1765 – February 25, 1815) was an American engineer who built ships.",
    "Jason Roberts (footballer)": "Jason Roberts (born 25\xa0January 1978) is a retired football player.",
    "LOL": "LOL means something that is very funny. It is slang.",
}


def asked(title: str) -> dict[str, str]:
    """Every question that an article can be asked, with its answer."""
    found = {}
    for seed in range(200):
        for made in questions_of(title, ARTICLES[title], random.Random(seed)):
            answer = made.context[made.start : made.end]
            assert found.setdefault(made.question, answer) == answer
    return found


@pytest.mark.parametrize(
    ("title", "question", "answer"),
    [
        ("Politician", "what is a politician?", "a person active in party politics"),
        ("Politician", "define a politician", "a person active in party politics"),
        ("Reign", "what does Reign mean?", "the period of time that a monarch rules over a country"),
        ("Baden-Baden", "where is Baden-Baden?", "Baden-Württemberg, Germany"),
        ("Baden-Baden", "what is Baden-Baden?", "a spa town with around 50,000 inhabitants in Baden-Württemberg"),
        ("U.S. Route 1", "what is U.S. Route 1?", "a road of the U.S. state of Maine"),
        ("Robert Fulton", "who was Robert Fulton?", "an American engineer"),
        ("Robert Fulton", "when was Robert Fulton born?", "November 14, 1765"),
        ("Robert Fulton", "when did Robert Fulton die?", "February 25, 1815"),
        ("Jason Roberts (footballer)", "when was Jason Roberts born?", "25\xa0January 1978"),
        ("LOL", "what does LOL mean?", "something that is very funny"),
    ],
)
def test_what_an_article_says_of_its_subject_is_asked(title: str, question: str, answer: str) -> None:
    assert asked(title)[question] == answer


@pytest.mark.parametrize("text", ["", "Something else is a thing of note.", "Reign! A word.", "A reign is long."])
def test_a_text_that_says_nothing_of_its_subject_is_not_asked(text: str) -> None:
    assert not list(questions_of("Reign", text, random.Random(0)))


def test_questions_are_the_same_for_a_seed_and_train_beside_another_article(tmp_path: Path) -> None:
    articles = tmp_path / "articles.jsonl"
    articles.write_text("".join(json.dumps({"title": t, "text": x}) + "\n" for t, x in ARTICLES.items()))
    counts = [write_questions([articles], tmp_path / name, 4, seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))]
    a, b, c = ((tmp_path / name).read_text() for name in "abc")
    assert a == b != c
    rows = [json.loads(line) for line in a.splitlines()]
    assert counts[0] == len(rows) >= 4
    for row in rows:
        assert row["hard_negatives"][0]["title"] != row["title"]
    passages = load_passages([tmp_path / "a"], load_tokenizer(checkpoint(tmp_path / "bert")), 144)
    assert sum(len(passage.questions) for passage in passages) == len(rows)


def test_a_paragraph_that_only_speaks_of_the_subject_is_its_negative(tmp_path: Path) -> None:
    on = " and so it went on for the length of a paragraph that is long enough to be worth reading to its end"
    dull, defines, speaks = "No reign.", f"In short a reign is a time{on}.", f"After her long reign she retired{on}."
    assert (
        mention("Reign", f"A reign is a period.\n{dull}\n{defines}\nNothing of it{on}.\n{speaks}\n{speaks} Twice.")
        == speaks
    )
    assert mention("Reign (law)", f"{speaks}\n{dull}\n{defines}") == ""
    articles = tmp_path / "articles.jsonl"
    texts = {**ARTICLES, "Reign": f"{ARTICLES['Reign']}\n{speaks}"}
    articles.write_text("".join(json.dumps({"title": t, "text": x}) + "\n" for t, x in texts.items()))
    write_questions([articles], tmp_path / "out", 100, 0)
    rows = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    found = {row["title"]: [negative["text"] for negative in row["hard_negatives"]] for row in rows}
    assert found["Reign"][0] == speaks
    assert len(found["Reign"]) == 2
    assert all(len(negatives) == 1 for title, negatives in found.items() if title != "Reign")


def test_a_missing_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cannot be read"):
        write_questions([tmp_path / "none.jsonl"], tmp_path / "out", 4, 0)
    assert not (tmp_path / "out").exists()
