"""Recording a command that need not know Sexton: what `sexton run -- CMD` does.

The command runs whatever happens to the record of it; its exit code is the caller's to pass on.
"""

import contextlib
import os
import signal
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sexton import settings
from sexton.capture import code, command, machine
from sexton.capture.console import Console, Piece
from sexton.courier import start as courier
from sexton.journal.journal import Identity, Writer, identify
from sexton.model import records
from sexton.model.runs import verdict
from sexton.model.values import clean_name
from sexton.sdk.session import about_process, log, new_id, open_journal

_TICKS_A_SYNC = 2  # a tick is half a second


class Recording:
    """One command, its run, and the console between them. `described` are fields of `Started`."""

    def __init__(
        self, argv: Sequence[str], chosen: settings.Settings, described: Mapping[str, Any], tags: Mapping[str, str]
    ) -> None:
        self.id = new_id()
        self._argv, self._settings, self._tags = list(argv), chosen, tags
        self._described = {"name": Path(argv[0]).name, **about_process(argv), **described}
        self._console = Console()
        self._last_error = b""
        self._writer: Writer | None = None
        self._ticks = 0
        self.end: records.Finished | None = None
        """How the command ended, once it has."""

    def run(self) -> int:
        """Run the command to its end: the code a shell would give for it (128 + N for signal N)."""
        with contextlib.suppress(OSError):  # the writer tells; the command inside may join only once this exists
            identify(self._settings.spool / self.id, self._identity())
        self._call_courier()
        outcome = command.run(
            self._argv,
            env=self._environment(),
            on_output=self._printed,
            on_start=self._started,
            on_tick=self._tick,
            cgroup_name=f"sexton-{self.id}",
        )
        self._finish(outcome)
        return 128 + outcome.signal if outcome.signal is not None else outcome.exit_code or 0

    # ------------------------------------------------------------------------------------------------------- inside

    def _identity(self) -> Identity:
        return Identity(self.id, new_id(), self._settings.url, self._settings.blobs)

    def _environment(self) -> dict[str, str]:
        """The caller's, with which an SDK inside joins this run and writes to the same spool and store."""
        chosen = self._settings
        ours = {"RUN": self.id, "HOME": chosen.home, "URL": chosen.url, "BLOBS": chosen.blobs}
        return {**os.environ, **{f"SEXTON_{name}": value for name, value in ours.items()}}  # noqa: TID251 - the child's environment, not a setting

    def _started(self, child: records.Process | None, cgroup: str | None) -> None:
        opening = records.Started(process=machine.this_process(), child=child, cgroup=cgroup, **self._described)
        self._writer = open_journal(self.id, self._settings, lambda _forked: opening)
        for key, value in self._tags.items():
            self._writer.append(records.Tag(key=clean_name(key), value=value))
        facts = {"code": code.capture(self._described["cwd"] or "/", self._argv), "machine": machine.describe()}
        for section, found in facts.items():
            self._writer.append(records.Captured(section=section, facts=found))

    def _printed(self, stream: str, data: bytes) -> None:
        if stream == "stderr" and data.strip():
            self._last_error = (self._last_error + data)[-2000:]
        self._record(self._console.feed(stream, data))

    def _tick(self) -> None:
        self._record(self._console.flush())
        self._ticks += 1
        if self._writer is not None and self._ticks % _TICKS_A_SYNC == 0:
            self._writer.sync()
            self._call_courier(hurry=False)

    def _record(self, pieces: Iterable[Piece]) -> None:
        if self._writer is None:
            return
        for piece in pieces:
            self._writer.append(
                records.Console(
                    stream="stderr" if piece.stream == "stderr" else "stdout",
                    offset=piece.offset,
                    data=piece.data,
                    skipped=piece.skipped,
                )
            )

    def _finish(self, outcome: command.Outcome) -> None:
        # The command has ended and this process is about to: a second Ctrl-C must not cut off the record of it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
        if self._writer is None:  # it could not be started, which is a run that failed
            self._started(None, None)
        self._record(self._console.close())
        state, cause = verdict(outcome.exit_code, outcome.signal, outcome.oom_killed)
        message = outcome.failure
        if state != "finished" and message is None:
            message = self._last_error.decode(errors="replace").strip().rpartition("\n")[2] or None
        end = records.Finished(
            state=state,
            cause="command-not-found" if outcome.failure else cause,
            exit_code=outcome.exit_code,
            signal=outcome.signal,
            message=message,
            cpu_seconds=outcome.cpu_seconds,
            cpu_method=outcome.cpu_method,
            cpu_coverage=outcome.cpu_coverage,
            max_rss=outcome.memory_peak or outcome.max_rss,
        )
        self.end = end
        if self._writer is not None:
            self._writer.append(end)
            self._writer.close()
        self._call_courier()

    @property
    def lost(self) -> int:
        """How many records the disk did not take."""
        return self._writer.lost if self._writer else 0

    def _call_courier(self, hurry: bool = True) -> None:
        try:
            courier.ensure(self._settings, hurry)
        except OSError as error:
            log.error("run %s: the courier could not be started: %s; records stay on disk until one is", self.id, error)
