"""
The chat line by line: for screen readers, pipes and terminals that cannot move the cursor.

Every line that is printed stays as it is: no colour, no cursor movement, no progress that is drawn over. Answers go to
stdout, everything else to stderr, and the prompt is printed only where a person types. As JSON, an answer is one object
on a line of stdout, and what else would stand there goes to stderr.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, TextIO

from app.assistant import Answer, Source
from app.chat.engine import Engine, Indexed
from app.chat.settings import Settings
from app.chat.words import age, judgement, likelihood, place, stages
from app.dialogue import follow_up
from app.display import many, plain, short
from app.reader import Cancelled, ignore, never
from app.scope import parse_scope
from app.sessions import answer_of, turn_of
from store.errors import BtrError, UsageError
from store.scope import EVERYTHING, Scope
from store.sessions import RIGHT, WRONG_ANSWER, WRONG_SOURCE, TurnKey

_HELP = """\
/scope FILTER   ask of a part of the notes: /scope folder:work tag:idea; alone: of all again
/index FOLDER   index a folder of notes
/more           the other candidates of the last answer, or the closest passages
/right          the last answer is right
/wrong ANSWER   it is wrong; the right one, or a minus: not in the notes; alone: not known
/wrong-source   it is right, its source is not
/follow on|off  read follow-up questions with the one before, or as they are
/new            begin a new session
/quit           leave the chat, as the end of the input does"""


class PlainChat:
    """A conversation over lines."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        lines: TextIO,
        out: TextIO,
        talk: TextIO,
        *,
        resume: int | None = None,
        print_json: Callable[[dict[str, Any]], None] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine, self._lines, self._out, self._talk, self._clock = engine, lines, out, talk, clock
        self._print_json = print_json
        self._follows = settings.follow_ups
        self._scope: Scope = EVERYTHING
        self._session = resume
        self._earlier: str | None = None
        self._last: tuple[TurnKey | None, Answer] | None = None
        self._stopped = threading.Event()
        self._typed = lines.isatty()

    def run(self) -> None:
        """
        Answer every line until the input ends; what changed in the notes is indexed meanwhile.

        Raises:
            BtrError: If the session that is to be resumed is not there, or the lines are not in their encoding.
        """
        for sentence in self._engine.warnings:
            self._say(sentence)
        self._say(f"{self._engine.status()}. Type a question; /help lists commands.")
        if self._session is not None:
            self._resume(self._session)
        worker = threading.Thread(target=self._rescan, name="rescan")
        worker.start()
        try:
            while True:
                if self._typed:
                    self._talk.write("> ")
                    self._talk.flush()
                line = self._next()
                if not line or line.strip() == "/quit":
                    return
                if line.strip():
                    self._take(line.strip())
        finally:
            self._stopped.set()
            worker.join()

    def _next(self) -> str:
        """The next line; empty at the end of the input."""
        try:
            return self._lines.readline()
        except UnicodeDecodeError as error:
            raise UsageError(f"standard input is not UTF-8 ({error.reason}): convert it") from error

    def _say(self, sentence: str) -> None:
        print(plain(sentence), file=self._talk, flush=True)

    def _print(self, *lines: str) -> None:
        out = self._talk if self._print_json else self._out
        for line in lines:
            print(plain(line), file=out)
        out.flush()

    def _rescan(self) -> None:
        try:
            for sentence in self._engine.rescan(lambda _: None, self._stopped.is_set):
                self._say(sentence)
        except Cancelled:
            return
        except BtrError as error:
            self._say(str(error))

    def _take(self, line: str) -> None:
        name, _, argument = line.partition(" ")
        commands: dict[str, Callable[[str], None]] = {
            "/scope": self._set_scope,
            "/index": self._index,
            "/more": self._more,
            "/right": lambda _: self._judge(RIGHT, None),
            "/wrong": lambda given: self._judge(WRONG_ANSWER, {"": None, "-": ""}.get(given, given)),
            "/wrong-source": lambda _: self._judge(WRONG_SOURCE, None),
            "/follow": self._follow,
            "/new": self._new,
            "/help": lambda _: print(_HELP, file=self._talk, flush=True),
        }
        try:
            if name in commands:
                commands[name](argument.strip())
            elif name == line and name.startswith("/") and name[1:].isalpha():
                self._say(f"there is no command {name}: /help lists them")
            else:
                self._ask(line)
        except BtrError as error:
            self._say(str(error))

    def _ask(self, question: str) -> None:
        read_as = follow_up(question, self._earlier) if self._follows else None
        if self._print_json is None:
            if not self._typed:
                self._print(f"Question: {question}")
            if read_as:
                self._print(f"Read as: {read_as}")
        answer = self._engine.ask(read_as or question, scope=self._scope, cancelled=never, told=ignore)
        self._earlier = read_as or question
        if self._print_json is None:
            self._show(answer)
        else:
            said = {"asked": question, "read_as": read_as, "scope": self._scope.text}
            self._print_json({**said, **answer.to_json()})
        saved = None
        if self._engine.sessions is not None:
            turn = turn_of(question, read_as, self._scope.text, answer, self._clock())
            self._last = None, answer
            self._session, saved = self._engine.sessions.add_turn(self._session, turn)
        self._last = saved, answer

    def _show(self, answer: Answer) -> None:
        if answer.answer is None:
            self._print("Answer: not in your notes")
            for source in answer.sources:
                self._print(f"Closest: {source.quote}", f"Place: {self._place(source)}")
        else:
            source = answer.sources[0]
            words = likelihood(answer.confidence).rstrip("▰▱ ")
            self._print(f"Answer: {answer.answer}", f"Sentence: {source.quote}", f"Source: {self._place(source)}")
            self._print(f"Confidence: {words}, {answer.confidence:.0%}")
        self._print("")

    def _place(self, source: Source) -> str:
        facts = [place(source), source.heading, age(source.modified, self._clock())]
        return ", ".join(filter(None, [*facts, "changed since indexed" if source.stale else ""]))

    def _more(self, _: str) -> None:
        if self._last is None:
            self._say("there is no answer yet")
            return
        answer = self._last[1]
        shown = answer.candidates if answer.abstained else answer.candidates[1:]
        for candidate in shown:
            self._print(
                f"Candidate: {candidate.answer}, {candidate.confidence:.0%}, {short(candidate.path)}:{candidate.line}"
            )
        self._print(f"Time: {stages(answer)}")

    def _set_scope(self, text: str) -> None:
        self._scope = parse_scope(text) if text else EVERYTHING
        notes = self._engine.count_notes(self._scope)
        self._say(f"asking {many(notes, 'note') + f' in {text}' if text else 'all notes'}")

    def _index(self, folder: str) -> None:
        if not folder:
            self._say("give the folder: /index ~/notes")
            return

        def progress(done: Indexed) -> None:
            if done.done == done.total:
                self._say(done.words)

        for sentence in self._engine.index(folder, progress, lambda: False):
            self._say(sentence)
        self._say(self._engine.status())

    def _follow(self, how: str) -> None:
        self._follows = how != "off"
        self._say(f"follow-up questions are read {'with the one before' if self._follows else 'as they are'}")

    def _new(self, _: str) -> None:
        self._session = self._earlier = self._last = None
        self._say("a new session begins")

    def _judge(self, verdict: str, correction: str | None) -> None:
        if self._engine.sessions is None or self._last is None or self._last[0] is None:
            self._say("there is no saved answer to say that of")
            return
        self._engine.sessions.judge(self._last[0], verdict, correction)
        self._say(f"kept: {judgement(verdict, correction)}")

    def _resume(self, session_id: int) -> None:
        if self._engine.sessions is None:
            raise UsageError(f"session {session_id} cannot be resumed, none are kept here: leave --no-save out")
        session = self._engine.sessions.session(session_id)
        turns = self._engine.sessions.turns(session_id)
        for turn in turns:
            self._print(f"Question: {turn.question}")
            self._show(answer_of(turn))
        self._earlier = (turns[-1].read_as or turns[-1].question) if turns else None
        self._say(f"resumed {session.name}")
