"""
The proof that nothing leaves the machine: `index`, `ask` and `search` in a process that can open no socket.

The process first installs an audit hook that counts and refuses everything Python does with sockets, and every attempt
to start another process, which the hook would not see into; only then it imports the rest of the program. A library's
own machine code does not pass that hook: so on Linux the kernel is told to end the process at its first socket call
(seccomp), and the process also looks, after every step, whether one of its open files is a socket. Because such code
may work in the background, the process stays for some seconds after the last answer. The notes are made up, in a
temporary home that is removed.
"""

from __future__ import annotations

import io
import json
import os
import platform
import struct
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path

NOTES = {
    "boiler.md": "# Boiler\n\nThe boiler in the cellar was serviced on 14 March 2024 by Hansen & Son.\n",
    "bread.txt": "The sourdough needs 780 g of flour and rests for twelve hours in the fridge.\n",
    "staging.html": "<h1>Staging</h1><p>The staging database listens on port 5433.</p>\n",
}
QUESTION = "When was the boiler serviced?"
_REFUSED = ("socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn")
_SOCKET_CALL = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
"""Machine -> the kernel's name for it, and its number of the call that opens a socket."""
_SIGSYS = 31
LINGER = 12.0
"""Seconds after the last answer: ONNX Runtime's reports, where they are not switched off, leave within ten."""
_PROCESS_FILES = Path("/proc/self/fd")


@dataclass
class Evidence:
    """What a guarded run did and tried."""

    ran: list[str] = field(default_factory=list)
    """Each command with its exit code."""
    sockets: list[str] = field(default_factory=list)
    """Audit events of sockets, all refused."""
    processes: list[str] = field(default_factory=list)
    """Audit events of processes to be started, all refused."""
    open_sockets: int | None = None
    """Sockets among the process's open files after any step; None where the system does not tell."""
    kernel: bool = False
    """The kernel would have ended the process at its first socket call, whoever made it."""
    failed: str | None = None
    """Why the run did not come to its end."""

    @property
    def holds(self) -> bool:
        """Everything ran, and nothing was tried."""
        return not (self.failed or self.sockets or self.processes or self.open_sockets)


class Guard:
    """Counts and refuses sockets and processes, from its installation to the end of this process."""

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence

    def install(self) -> None:
        """There is no way back: an audit hook stays."""
        self._evidence.kernel = deny_sockets_in_kernel()
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[object, ...]) -> None:
        if event.startswith(_REFUSED):
            of_sockets = event.startswith("socket.")
            (self._evidence.sockets if of_sockets else self._evidence.processes).append(event)
            raise PermissionError(f"{event} is refused here")

    def look(self) -> None:
        """Count the sockets among the open files."""
        if _PROCESS_FILES.is_dir():
            opened = sum(_target(path).startswith("socket:") for path in _PROCESS_FILES.iterdir())
            self._evidence.open_sockets = max(self._evidence.open_sockets or 0, opened)


def deny_sockets_in_kernel() -> bool:
    """Have the kernel end this process at its first socket call, for good; whether it can."""
    if sys.platform != "linux" or platform.machine() not in _SOCKET_CALL:
        return False
    import ctypes

    machine, socket_call = _SOCKET_CALL[platform.machine()]
    load, jump_if_equal, give = 0x20, 0x15, 0x06
    allow, kill_process = 0x7FFF0000, 0x80000000
    program = (
        (load, 0, 0, 4),  # the machine
        (jump_if_equal, 0, 2, machine),
        (load, 0, 0, 0),  # the call
        (jump_if_equal, 1, 0, socket_call),
        (give, 0, 0, allow),
        (give, 0, 0, kill_process),
    )
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
    fprog = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(code)))
    no_new_privileges, seccomp, by_filter = 38, 22, 2
    prctl = ctypes.CDLL(None).prctl
    prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    if prctl(no_new_privileges, 1, 0, 0, 0):
        return False
    return bool(prctl(seccomp, by_filter, ctypes.addressof(fprog), 0, 0) == 0)


def _target(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:  # closed meanwhile, such as the listing itself
        return ""


def prove(bundle: Path, device: str) -> Evidence:
    """Run the program over made-up notes in a guarded process of its own."""
    root = str(Path(__file__).parent.parent)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BTR_ASSISTANT_")}
    path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), root)))
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                "from app.offline import guarded; guarded()",
                str(bundle.absolute()),
                device,
                str(LINGER),
            ],
            env=kept | {"PYTHONPATH": path, "BTR_ASSISTANT_HOME": home},
            cwd=home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
    try:
        return Evidence(**json.loads(done.stdout.splitlines()[-1]))
    except (IndexError, ValueError, TypeError):
        if done.returncode == -_SIGSYS:
            return Evidence(
                kernel=True, failed="machine code of a library opened a socket, the kernel ended the process"
            )
        said = done.stderr.strip().splitlines() or ["nothing"]
        return Evidence(failed=f"exit code {done.returncode}: {said[-1]}")


def guarded() -> None:
    """The process of `prove`: guard, run, print the evidence as one line of JSON."""
    evidence = Evidence()
    guard = Guard(evidence)
    guard.install()
    notes = Path(os.environ["BTR_ASSISTANT_HOME"], "notes")
    notes.mkdir(parents=True)
    for name, text in NOTES.items():
        (notes / name).write_text(text, encoding="utf-8")
    _, bundle, device, linger = sys.argv
    places = ["--bundle", bundle, "--device", device]
    for command in (["index", str(notes)], ["ask", QUESTION], ["search", "staging database port"]):
        code, said = _run([*places, *command])
        guard.look()
        evidence.ran.append(f"{command[0]} (exit code {code})")
        if code > 1:  # an abstention is an outcome
            evidence.failed = f"{command[0]} ended with exit code {code}: {said}"
            break
    if not evidence.failed:
        time.sleep(float(linger))
        guard.look()
    sys.stdout.write(json.dumps(asdict(evidence)) + "\n")


def _run(arguments: list[str]) -> tuple[int, str]:
    """One command of the program in this process: its exit code, and its last line of talk."""
    from app.cli import main

    sys.argv = ["btr-assistant", *arguments]
    talk = io.StringIO()
    with redirect_stdout(io.StringIO()), redirect_stderr(talk):
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
            return code, (talk.getvalue().strip().splitlines() or [""])[-1]
    return 0, ""
