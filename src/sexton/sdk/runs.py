"""A run as training sees it: calls that put facts into the journal and return.

Nothing here waits for a network or raises for the state of disk, courier or server. What can't be recorded as it was
given is told once in the log, counted, and shown with the run.
"""

import functools
import logging
import math
import operator
import os
import resource
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Concatenate, Literal, ParamSpec, Self

import msgspec

from sexton import clock
from sexton.courier import start as courier
from sexton.journal.journal import Writer
from sexton.journal.reader import Cursor, Progress
from sexton.journal.segment import Key
from sexton.model import records
from sexton.model.runs import End
from sexton.model.values import clean_name, encode_param, flatten, said, show
from sexton.sdk.keeper import keeper
from sexton.settings import Settings

log = logging.getLogger("sexton")

Outcome = Literal["worked", "no_effect", "worse", "failed", "inconclusive"]
_ENDS = ("finished", "failed", "killed")
_INT64 = range(-(2**63), 2**63)
_MAX_TOLD = 1_000
_PARAMS_A_RECORD = 25  # of up to 1 MiB each; a record may have 30
_MAX_TRACEBACK = 64 << 10
_NOT_NUMBERS = "run.log() takes numbers; text belongs in run.tag() or run.note(), files in run.save()"


P = ParamSpec("P")


def _never_raises(act: "Callable[Concatenate[Run, P], None]") -> "Callable[Concatenate[Run, P], None]":
    """The border to training: whatever a call meets in what it was given is told and counted, and training goes on."""

    @functools.wraps(act)
    def safely(run: "Run", /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            act(run, *args, **kwargs)
        except Exception as error:  # noqa: BLE001 - a user's objects may raise anything from anywhere
            name = act.__name__.removeprefix("_")
            run.complain("dropped", f"run.{name}() could not be recorded: {type(error).__name__}: {said(error)}")

    return safely


class Run:
    """An open run; made by `sexton.start` or `sexton.resume`. Use it from any thread; forked children may log too.

    As a context manager it ends with the block: `finished`, or `failed` with the exception that left it.
    """

    def __init__(self, run_id: str, writer: Writer, settings: Settings) -> None:
        self.id = run_id
        """12 characters; any unique beginning of it names the run in the CLI."""
        self._writer, self._settings = writer, settings
        self._row: Callable[..., bool] = writer.row  # log() is counted in nanoseconds
        self._params: dict[str, str] = {}
        self._told: set[tuple[str, str]] = set()
        self._trouble: Counter[tuple[str, str]] = Counter()
        self._background: list[Callable[[], None]] = []
        self._tending = threading.Lock()
        self._cpu_before = cpu_seconds()
        self.ended = False

    # ------------------------------------------------------------------------------------------------------ record

    def log(
        self,
        metrics: Mapping[str, Any],
        step: int | float | None = None,
        *,
        time: int | None = None,
        context: Mapping[str, Any] | None = None,
    ) -> None:
        """Record one point of each metric: numbers, or nested mappings of them, whose names are joined with `/`.

        `step` may repeat, go back, be a fraction, or be left out. `time` (UTC ns) is for points that are not of now.
        `context` tells series of one name apart, as in `context={"split": "val"}`. Never raises.
        """
        try:
            if context is None:
                self._row(metrics, step, time)
                return
        except Exception:  # noqa: BLE001, S110 - a value's own __float__ may raise anything; sorted out below
            pass
        self._log_with_care(metrics, step, time, context)

    @_never_raises
    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record fixed inputs. Any value is accepted; the first value of a key stays. Never raises."""
        fresh: dict[str, str] = {}
        for name, value in _mapping(params).items():
            key, text = clean_name(name), encode_param(value)
            known = self._params.get(key)
            if known is None:
                self._params[key] = fresh[key] = text
            elif known != text:
                self.complain("conflicting", f"param {key!r} is {known[:80]} already and stays so: params are fixed")
        items = list(fresh.items())
        for first in range(0, len(items), _PARAMS_A_RECORD):
            self._append(records.Params(params=dict(items[first : first + _PARAMS_A_RECORD])))

    @_never_raises
    def maximize(self, *metrics: str) -> None:
        """Declare that more of these metrics is better, so that their best is the highest value."""
        for name in metrics:
            self._append(records.Direction(metric=clean_name(name), direction="max"))

    @_never_raises
    def minimize(self, *metrics: str) -> None:
        """Declare that less of these metrics is better, so that their best is the lowest value."""
        for name in metrics:
            self._append(records.Direction(metric=clean_name(name), direction="min"))

    @_never_raises
    def tag(self, /, *names: str, **pairs: object) -> None:
        """Set labels: `run.tag("baseline", tier="passed-eval")`. None as a value removes a label."""
        for key, value in {**dict.fromkeys(map(said, names), ""), **pairs}.items():
            text = None if value is None else said(value)
            self._append(records.Tag(key=clean_name(key), value=text))

    @_never_raises
    def note(self, text: str) -> None:
        """Add a Markdown note."""
        self._append(records.Note(text=said(text)))

    @_never_raises
    def save(
        self,
        path: str | os.PathLike[str] | None = None,
        name: str | None = None,
        *,
        state_dict: Mapping[str, Any] | None = None,
        uri: str | None = None,
        reference: bool = False,
        id: str | None = None,  # noqa: A002  # the word for it everywhere
        kind: str = "file",
        step: int | float | None = None,
        metrics: Mapping[str, float] | None = None,
        drop: Literal["optimizer"] | None = None,
    ) -> None:
        """Keep a file or a folder as it is now, under `name` (default: its own). Returns at once: what is large is
        copied in the background, and where it is written to before that, it is told and not kept.

        `state_dict` is written as safetensors instead. `uri` with `reference=True` keeps only where the bytes are, and
        the `id` (version, ETag, digest) by which they are known there. `drop="optimizer"` stores the file without the
        state of its optimizer, which then reads as zeros. `metrics`: how good it is. Never raises.
        """
        if self.ended:
            self._refuse()
            return
        from sexton.sdk import saving  # a run that saves nothing need not load it

        about = {
            "kind": clean_name(kind),
            "step": self._step(step),
            "metrics": {clean_name(key): _number(value) for key, value in (metrics or {}).items()},
            "drop": saving.dropped(drop),
            "id": None if id is None else said(id),
        }
        source = saving.Source(path, state_dict, uri, reference, name)
        try:
            held = saving.hold(source, self._writer.folder / "files", about, self.complain)
        except OSError as error:
            self.complain("dropped", f"{source} could not be saved: {error.strerror or said(error)}")
            return
        if not self._writer.append(held.record):
            saving.forget(held)
        elif held.pending:
            self.in_background(lambda: saving.settle(held, self.complain, keeper.sync))

    @_never_raises
    def conclude(self, outcome: Outcome, takeaway: str = "") -> None:
        """Say what the run taught: `worked`, `no_effect`, `worse`, `failed` or `inconclusive`, and the takeaway."""
        allowed = Outcome.__args__  # type: ignore[attr-defined]  # a Literal has them; typing does not say so
        if outcome not in allowed:
            self.complain("dropped", f"outcome {show(outcome)} is none of {', '.join(allowed)}")
            return
        self._append(records.Concluded(outcome=outcome, takeaway=said(takeaway)))

    @property
    def lost(self) -> int:
        """How many records the disk did not take. 0 in a run that is well."""
        return self._writer.lost

    # --------------------------------------------------------------------------------------------------------- end

    def flush(self, timeout: float = 60.0) -> bool:
        """Wait until all that was recorded so far is in the store; False if it is not there after `timeout` seconds."""
        self._report_trouble()
        self._writer.sync()
        goal, epoch = self._writer.sequence, self._writer.epoch
        deadline = clock.Deadline(timeout)
        while not deadline.passed:
            self.call_courier()
            if self.ended and not self._writer.folder.exists():  # delivered to the end and removed
                return True
            if epoch >= 0 and Cursor.load(self._writer.folder).epochs.get(epoch, Progress()).reached(goal):
                return True
            clock.sleep(0.02)
        log.warning("run %s: not everything is in the store yet; it is safe on disk (`sexton doctor`)", self.id)
        return False

    def finish(self, state: Literal["finished", "failed", "killed"] = "finished", message: str | None = None) -> None:
        """End the run. Does not wait for delivery (see `flush`). Ending an ended run does nothing."""
        if state not in _ENDS:
            self.complain("dropped", f"a run ends {', '.join(_ENDS)}, not {show(state)}; it is taken for failed")
            state = "failed"
        self.end_with(records.Finished(state=state, message=None if message is None else said(message)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end_with(ending_of(error))

    def __repr__(self) -> str:
        return f"<sexton.Run {self.id}{' (ended)' if self.ended else ''}>"

    # ------------------------------------------------------------------------------------------------------ inside

    def sync(self) -> None:
        """Make what was recorded survive a power failure."""
        self._writer.sync()

    def tend(self, look_for_courier: bool) -> None:
        """The keeper's regular turn: background capture, troubles told, journal synced, courier there."""
        self._do_background()
        if self.ended:
            return
        self._report_trouble()
        self._writer.sync()
        if look_for_courier:
            self.call_courier(hurry=False)

    @_never_raises
    def _do_background(self) -> None:
        with self._tending:
            while self._background:
                self._background.pop(0)()

    def in_background(self, act: Callable[[], None]) -> None:
        """Have the keeper do something soon, at the latest before the run has ended."""
        self._background.append(act)

    def _append(self, record: records.Record) -> None:
        if self.ended:
            self._refuse()
        else:
            self._writer.append(record)

    def end_with(self, end: records.Finished) -> None:
        """End the run as told; its time and use of CPU are filled in."""
        if self.ended or (self._writer.epoch < 0 and not self._writer.lost):  # a forked child that said nothing
            return
        self.ended = True
        self._do_background()
        self._report_trouble()
        self._row = self._refuse
        end.cpu_seconds, end.cpu_method = cpu_seconds() - self._cpu_before, "rusage"
        self._writer.append(end)
        self._writer.close()
        keeper.release(self)
        self.call_courier()

    def _refuse(self, *_: object) -> bool:
        self.complain("dropped", f"the run has ended and takes no more; sexton.resume({self.id!r}) goes on with it")
        return False

    @_never_raises
    def _log_with_care(
        self, metrics: Mapping[str, Any], step: object, time: object, context: Mapping[str, Any] | None
    ) -> None:
        """What `log` does with anything but clean names and numbers: keep what can be kept, tell about the rest."""
        where = _where(context) if context else ""
        values: dict[Key, float] = {}
        for name, value in flatten(_mapping(metrics)).items():
            key: Key = (clean_name(name), where) if where else clean_name(name)
            if key in values:
                self.complain("dropped", f"metric {name!r:.80} has, once cleaned, the name of another in the same call")
                continue
            try:
                values[key] = _number(value)
            except Exception as error:  # noqa: BLE001 - a value's own __float__ may raise anything
                given = f"{type(value).__name__} {show(value)}"
                self.complain("dropped", f"metric {name!r:.80} was given {given}: {said(error)}. {_NOT_NUMBERS}")
        if values:
            self._row(values, self._step(step), self._whole(time, "time"))

    def _step(self, step: Any) -> int | float | None:
        if step is None or _index(step) is not None:
            return self._whole(step, "step")
        try:
            number = _number(step)
        except Exception:  # noqa: BLE001 - a value's own __float__ may raise anything
            number = math.nan
        if math.isfinite(number):
            return number
        self.complain("dropped", f"step {show(step)} is not a number; the point was kept without a step")
        return None

    def _whole(self, value: Any, what: str) -> int | None:
        if value is None:
            return None
        number = _index(value)
        if number is not None and number in _INT64:
            return number
        self.complain("dropped", f"{what} {show(value)} is not a 64-bit integer; the point was kept without it")
        return None

    def complain(self, kind: str, text: str) -> None:
        """Tell a problem once, and count it for those who read the run."""
        if (kind, text) not in self._told and len(self._told) < _MAX_TOLD:
            self._told.add((kind, text))
            log.warning("run %s: %s", self.id, text)
        self._trouble[kind, text[:200]] += 1

    def _report_trouble(self) -> None:
        told, self._trouble = self._trouble, Counter()
        for (kind, reason), count in told.items():
            self._writer.append(records.Trouble(kind=kind, count=count, reason=reason))

    def call_courier(self, hurry: bool = True) -> None:
        """See that there is a courier, and unless told otherwise that it looks at once."""
        try:
            courier.ensure(self._settings, hurry)
        except OSError as error:
            self.complain("courier", f"the courier could not be started: {error}; records stay on disk until one is")

    def after_fork(self) -> None:
        """In a forked child: what another thread held or had planned is not this process's."""
        self._tending, self._background = threading.Lock(), []
        self._trouble.clear()


def ending_of(error: BaseException | None) -> records.Finished:
    """How a run ends that this exception leaves."""
    match error:
        case None:
            return records.Finished(state="finished")
        case SystemExit(code=code):
            number = 0 if code is None else int(code) & 0xFF if isinstance(code, int) else 1  # as the system is told
            message = None if code is None or isinstance(code, int) else said(code)
            state: End = "failed" if number else "finished"
            return records.Finished(state=state, cause="exit", exit_code=number, message=message)
        case KeyboardInterrupt():
            return records.Finished(state="killed", cause="interrupt", message="interrupted from the keyboard")
    import traceback  # only a failing run needs it

    text = "".join(traceback.format_exception(error))
    summary = "".join(traceback.format_exception_only(error)).strip()
    return records.Finished(
        at=0, state="failed", cause="exception", message=summary[:2000], traceback=text[-_MAX_TRACEBACK:]
    )


def cpu_seconds() -> float:
    """CPU seconds of this process and the children it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _mapping(values: Any) -> Mapping[Any, Any]:
    """What was given as metrics or params, as a flat or nested mapping: a mapping, a namespace, a dataclass."""
    if isinstance(values, Mapping):
        return values
    return vars(values) if hasattr(values, "__dict__") else {"value": values}


def _where(context: Mapping[str, Any]) -> str:
    """A context as it is part of a metric's key: canonical JSON text."""
    told = {clean_name(key): clean_name(value) for key, value in context.items()}
    return clean_name(msgspec.json.encode(told, order="sorted").decode())


def _number(value: Any) -> float:
    if isinstance(value, str | bytes | bytearray):  # float() would read a number out of it
        raise TypeError("this is text")
    return float(value)


def _index(value: Any) -> int | None:
    """A whole number as Python's own: of numpy, of an array of one, ...; None for what is none."""
    try:
        return operator.index(value)
    except Exception:  # noqa: BLE001 - a value's own __index__ may raise anything
        return None
