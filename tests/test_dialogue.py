"""Follow-ups: when a question leans on the one before, when it does not, and what the reader makes of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.assistant import Assistant
from app.dialogue import follow_up

RAIN = "How much did it rain in 2022?"
TREE = "Who planted the pear tree in the garden?"
RENT = "What is the rent of the flat in Berlin?"
BOILER = "When was the boiler serviced?"


@pytest.mark.parametrize(
    ("earlier", "question", "read"),
    [
        (RAIN, "and in 2023?", "How much did it rain in 2023?"),
        (RAIN, "What about 2023?", "How much did it rain in 2023?"),
        (RAIN, "2023?", "How much did it rain in 2023?"),
        (RAIN, "and in May 2023?", "How much did it rain in May 2023?"),
        ("Who came in May?", "and in June?", "Who came in June?"),
        (BOILER, "and the next one?", "When is the next one? boiler serviced"),
        (BOILER, "and the last one?", "When was the last one? boiler serviced"),
        (RENT, "and in Lisbon?", "What is the rent of the flat in Lisbon?"),
        (RENT, "what about the one in Lisbon?", "What is the rent of the flat in Lisbon?"),
        (RENT, "for Jane?", "What is the rent of the flat in Berlin for Jane?"),
        (TREE, "and the apple tree?", "Who planted the pear tree in the apple tree?"),
        ("Who planted the pear tree?", "And the apple tree?", "Who planted the apple tree?"),
        ("Where does Tom Ortega live?", "and Jane Doe?", "Where does Jane Doe live?"),
        ("Who repaired the fence?", "how much did he charge?", "how much did he charge? repaired fence"),
        (BOILER, "by whom?", "by whom? boiler serviced"),
        (BOILER, "who serviced it?", "who serviced it? boiler"),
        (BOILER, "which company?", "which company? boiler serviced"),
        (BOILER, "why?", "why? boiler serviced"),
        (BOILER, "and when did we sell?", "and when did we sell? boiler serviced"),
        (BOILER, "is that normal?", "is that normal? boiler serviced"),
        (BOILER, "what happened after that?", "what happened after that? boiler serviced"),
        (BOILER, "what of the other one?", "what of the other one? boiler serviced"),
        (BOILER, "what do we keep there?", "what do we keep there? boiler serviced"),
    ],
)
def test_a_question_that_leans_on_the_one_before_is_read_with_it(earlier: str, question: str, read: str) -> None:
    assert follow_up(question, earlier) == read
    assert follow_up(question, None) is None


@pytest.mark.parametrize(
    "question",
    [
        "Who is Jane?",
        "When was the roof mended?",
        "boiler pressure",
        "the boiler",
        "Where did Jane leave her keys?",
        "Where is the dog and its leash?",
        "Is there a ladder in the shed?",
        "Who said that the roof leaks?",
        "In which year was the house built?",
        "and who painted the fence green?",
        "What is the port of the staging database?",
        "Does the boiler need its filter changed?",
        "passport number",
        "Andorra?",
        "Or\u00e9al?",
        "?",
        "",
    ],
)
def test_a_question_that_stands_by_itself_is_read_as_it_is(question: str) -> None:
    assert follow_up(question, BOILER) is None


def test_a_dialogue_goes_on_from_what_was_read() -> None:
    read = follow_up("and in 2023?", RAIN)
    assert follow_up("and in 2024?", read) == "How much did it rain in 2024?"
    read = follow_up("when?", "Who repaired the fence?")
    assert read == "when? repaired fence"
    assert follow_up("how much did he charge?", read) == "how much did he charge? repaired fence"


def test_what_is_added_stays_short() -> None:
    read = follow_up("why?", " ".join(f"word{i}" for i in range(100)))
    assert read is not None and len(read.split()) == 13


@given(st.text(max_size=80), st.text(max_size=80))
def test_any_two_texts_are_taken(question: str, earlier: str) -> None:
    read = follow_up(question, earlier)
    assert read is None or read.strip()


@pytest.mark.parametrize(
    ("dialogue"),
    [
        [("When was the boiler serviced?", "14 March 2024"), ("by whom?", "Hansen & Son")],
        [("When was the boiler serviced?", "14 March 2024"), ("what is its normal pressure?", "1.2 and 1.6 bar")],
        [("How many outages did we have in January?", "three"), ("what caused them?", "expired certificates")],
        [("Where does the staging database run?", ""), ("on which port?", "5433")],
    ],
)
def test_the_reader_answers_short_dialogues(assistant: Assistant, dialogue: list[tuple[str, str]]) -> None:
    earlier = None
    for question, answer in dialogue:
        read = follow_up(question, earlier) or question
        if earlier is not None:
            assert read != question
        found = assistant.ask(read).candidates[0].answer
        assert answer in found
        earlier = read
