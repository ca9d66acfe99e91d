"""Watching the processes of one journal from outside: samples of what they use, and their end if they can't tell it.

What it sees goes into the same journal as an epoch of its own, so it is delivered like everything else.
"""

from pathlib import Path

import msgspec

from sexton import clock
from sexton.capture import machine
from sexton.capture.cgroup import Cgroup
from sexton.courier.delivery import Delivery
from sexton.journal.journal import Writer
from sexton.model.records import Finished, Heartbeat, Process, Started, Usage
from sexton.model.runs import LOST_AFTER_SECONDS, signal_name, verdict


class Vigil:
    """The watch over the sessions of one journal. `sample_seconds` lie between two samples of a session."""

    def __init__(self, delivery: Delivery, sample_seconds: float) -> None:
        self._delivery = delivery
        self._every = int(sample_seconds * clock.SECOND)
        self._watches: dict[int, machine.Watch] = {}
        self._due: dict[int, int] = {}
        self._last: dict[int, tuple[int, Usage]] = {}
        self._writer: Writer | None = None
        self.trouble: str | None = None

    def look(self) -> bool:
        """Look at every session that has not ended: sample the living, close the dead. True while one lives."""
        alive = False
        for epoch in self._delivery.epochs():
            progress = self._delivery.progress(epoch)
            if progress.ended or epoch in self.epochs:
                continue
            started = progress.started or self._first_record(epoch)
            process = started.process if started else None
            lives = machine.is_alive(process) if process else None
            if started and started.role == "observer" and process == machine.this_process():
                lives = False  # this courier's own, from before it had nothing to do for a while
            if started and started.role == "observer":
                self._delivery.end(epoch)  # of a courier before this one: it has nothing more to say
            elif started and process and lives:
                alive = True
                self._attend(epoch, started, process)
            elif started and process and lives is False:
                self._close(epoch, started, process)
            elif clock.now() - self._delivery.silent_since(epoch) > LOST_AFTER_SECONDS * clock.SECOND:
                self._delivery.end(epoch)  # nobody knows its process; should it speak again, it is heard
        return alive

    @property
    def epochs(self) -> set[int]:
        """The session of the observer itself, where it has said anything."""
        return {self._writer.epoch} if self._writer is not None else set()

    @property
    def over(self) -> bool:
        """Whether no session can have anything more to say. A journal without any was made by somebody who is about to
        open it; only after a while it is taken for left behind."""
        sessions = self._delivery.epochs()
        if not sessions:
            return clock.now() - self._delivery.made_at > LOST_AFTER_SECONDS * clock.SECOND
        return all(self._delivery.progress(epoch).ended or epoch in self.epochs for epoch in sessions)

    def stop(self) -> None:
        """Let go of what is open."""
        for watch in self._watches.values():
            watch.close()
        self._watches = {}
        if self._writer is not None:
            self._writer.close()

    def _first_record(self, epoch: int) -> Started | None:
        first = next(self._delivery.unread(epoch), None)
        return first if isinstance(first, Started) else None

    def _attend(self, epoch: int, started: Started, process: Process) -> None:
        if epoch not in self._watches:
            self._watches[epoch] = machine.Watch(process)
        if started.role == "owner" and clock.monotonic() >= self._due.get(epoch, 0):
            self._due[epoch] = clock.monotonic() + self._every
            self._write_sample(epoch, started, started.child or process)

    def _write_sample(self, epoch: int, started: Started, process: Process) -> None:
        sample = machine.sample(process)
        if sample is None:
            self._journal().append(Heartbeat())
            return
        counted = Cgroup(Path(started.cgroup)).cpu_seconds() if started.cgroup else None
        usage = Usage(
            method="psutil" if counted is None else "cgroup2",
            cpu_seconds=sample.cpu_seconds if counted is None else counted,
            memory=sample.memory,
            read_bytes=sample.read_bytes,
            write_bytes=sample.write_bytes,
            processes=sample.processes,
            gpus=tuple(msgspec.structs.asdict(gpu) for gpu in machine.gpus(sample.pids)),
        )
        self._last[epoch] = clock.monotonic(), usage
        self._journal().append(usage)

    def _close(self, epoch: int, started: Started, process: Process) -> None:
        """The process is dead. If it did not say how it ended, say what can be known."""
        told = self._delivery.told_end(epoch)
        if not told and not self._journal().append(self._seen_end(epoch, process)):
            return  # the disk is full: the next look tries again
        self._delivery.end(epoch)
        if started.cgroup:  # a recorder that was killed could not remove it
            Cgroup(Path(started.cgroup)).remove()
        if epoch in self._watches:
            self._watches.pop(epoch).close()

    def _seen_end(self, epoch: int, process: Process) -> Finished:
        end = Finished(epoch=epoch, state="lost", cause="vanished")
        if epoch not in self._watches:
            self._watches[epoch] = machine.Watch(process)  # too late to see it die, but nobody may have reaped it yet
        watch = self._watches[epoch]
        status = watch.exit_status()
        if status is not None:
            end.exit_code, end.signal = status.exit_code, status.signal
            end.state, end.cause = verdict(status.exit_code, status.signal, watch.oom_killed())
            if status.signal is not None:
                memory = "; the kernel was short of memory" if end.cause == "oom" else ""
                end.message = f"killed by {signal_name(status.signal)}{memory}"
        elif process.boot != machine.this_process().boot:
            end.state, end.cause, end.message = "killed", "reboot", "its host was restarted"
        else:
            end.message = "its process is gone, and nobody saw how it ended"
        if epoch in self._last:
            at, usage = self._last[epoch]
            ago = (clock.monotonic() - at) / clock.SECOND
            end.cpu_seconds, end.cpu_method = usage.cpu_seconds, usage.method
            end.cpu_coverage = f"until {ago:.0f} s before its end was seen"
        return end

    def _journal(self) -> Writer:
        if self._writer is None:
            opening = Started(role="observer", process=machine.this_process())
            self._writer = Writer(self._delivery.folder, lambda _forked: opening, self._complain)
        return self._writer

    def _complain(self, message: str) -> None:
        self.trouble = message
