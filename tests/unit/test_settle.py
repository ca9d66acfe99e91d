"""A run's state is the same whatever order its records arrive in, and says what its sessions say together."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sexton.model.records import ASSUMED, Finished, Role, Started
from sexton.model.runs import End, Session, Settled, State, settle, shown_state, verdict

TIMES = st.integers(1, 6)  # few, so that sessions often begin and end in the same nanosecond
TEXTS = st.sampled_from([None, "", "a", "b"])
ENDS = st.none() | st.builds(
    Finished,
    at=TIMES,
    state=st.sampled_from(["finished", "failed", "killed", "lost"]),
    message=st.sampled_from([None, "x", "y"]),
)
STARTS = st.none() | st.builds(
    Started, at=TIMES, role=st.sampled_from(["owner", "joined", "observer"]), experiment=TEXTS, name=TEXTS
)
SESSIONS = st.lists(
    st.builds(
        Session,
        writer=st.sampled_from(["w1", "w2"]),
        epoch=st.integers(0, 3),
        started=STARTS,
        finished=ENDS,
        closed=ENDS,
    ),
    max_size=6,
    unique_by=lambda session: (session.writer, session.epoch),
)


@given(SESSIONS, st.randoms())
def test_the_order_of_arrival_does_not_matter(sessions: list[Session], chance: random.Random) -> None:
    shuffled = list(sessions)
    chance.shuffle(shuffled)
    assert settle(shuffled) == settle(sessions)


@given(SESSIONS)
def test_an_end_is_what_some_session_said(sessions: list[Session]) -> None:
    settled = settle(sessions)
    ends = [end for session in sessions for end in (session.finished, session.closed) if end]
    if settled.state == "running":
        assert (settled.end, settled.ended_at) == (None, None)
    else:
        assert settled.end in ends
        assert settled.end is not None
        assert (settled.state, settled.ended_at) == (settled.end.state, settled.end.at)


def _session(
    begins: int,
    role: Role = "owner",
    told: tuple[int, End] | None = None,
    seen: tuple[int, End] | None = None,
    writer: str = "w",
    **described: str,
) -> Session:
    return Session(
        writer,
        begins,
        Started(at=begins, role=role, **described),  # type: ignore[arg-type]  # only fields that are text
        Finished(at=told[0], state=told[1]) if told else None,
        Finished(at=seen[0], state=seen[1]) if seen else None,
    )


def _state(*sessions: Session) -> State:
    return settle(sessions).state


def test_nothing_known_yet_is_a_run_that_runs() -> None:
    assert settle([]) == Settled("running", 0, None, None, Started(at=0))


def test_an_end_that_arrives_before_its_beginning_counts() -> None:
    early = Session("w", 0, finished=Finished(at=7, state="failed"))
    assert (settle([early]).state, settle([early]).ended_at) == ("failed", 7)


def test_a_run_that_began_is_running_until_its_owner_ends() -> None:
    assert _state(_session(1)) == "running"
    assert _state(_session(1, told=(5, "finished"))) == "finished"


def test_the_time_of_a_run_is_from_its_first_session_to_its_end() -> None:
    settled = settle([_session(3, "joined"), _session(2, told=(9, "finished"))])
    assert (settled.created_at, settled.ended_at) == (2, 9)


def test_what_a_process_tells_outweighs_what_was_seen() -> None:
    assert _state(_session(1, told=(5, "failed"), seen=(6, "lost"))) == "failed"
    assert _state(_session(1, seen=(6, "killed"))) == "killed"


def test_an_end_that_a_process_only_assumed_gives_way_to_a_bad_one_that_was_seen() -> None:
    """A script that calls sys.exit(3) with an open run: it learns the end of its interpreter, and not the code."""
    assumed = Finished(at=5, state="finished", cause=ASSUMED)
    for seen, state in {"failed": "failed", "killed": "killed", "lost": "finished", "finished": "finished"}.items():
        closed = Finished(at=6, state=seen, exit_code=3)  # type: ignore[arg-type]  # each is an end
        settled = settle([Session("w", 0, Started(at=1), assumed, closed)])
        assert (settled.state, settled.end == closed) == (state, state != "finished")


def test_a_resumed_run_runs_again_and_its_last_owner_decides() -> None:
    first = _session(1, told=(5, "failed"))
    assert _state(first, _session(10)) == "running"
    assert _state(first, _session(10, told=(20, "finished"))) == "finished"
    assert _state(_session(1, seen=(5, "lost")), _session(10, told=(20, "finished"))) == "finished"


def test_of_two_processes_that_resumed_it_the_later_decides_on_either_host() -> None:
    assert _state(_session(1, writer="a", told=(30, "failed")), _session(2, writer="b", told=(20, "finished"))) == (
        "finished"
    )


def test_a_joined_session_keeps_a_run_going_whose_owner_vanished() -> None:
    owner = _session(1, seen=(5, "killed"))
    assert _state(owner, _session(2, "joined")) == "running"
    assert _state(owner, _session(2, "joined", told=(9, "finished"))) == "finished"
    assert _state(owner, _session(2, "joined", seen=(9, "killed"))) == "killed"


def test_a_worker_that_ended_well_before_does_not_speak_for_an_owner_that_was_killed() -> None:
    owner = _session(1, seen=(9, "killed"))
    assert _state(owner, _session(2, "joined", told=(5, "finished"))) == "killed"


def test_a_joined_failure_shows_though_the_owner_ended_well() -> None:
    owner = _session(1, told=(9, "finished"))
    assert _state(owner, _session(2, "joined", told=(5, "failed"))) == "failed"
    assert _state(owner, _session(2, "joined", told=(5, "finished"))) == "finished"
    assert _state(owner, _session(2, "joined", seen=(5, "killed"))) == "finished"


def test_an_owner_that_failed_is_not_made_well_by_others() -> None:
    assert _state(_session(1, told=(5, "failed")), _session(2, "joined", told=(9, "finished"))) == "failed"


def test_a_joined_session_of_an_earlier_owner_does_not_hold_up_a_later_one() -> None:
    sessions = (_session(1, seen=(4, "killed")), _session(2, "joined"), _session(10, told=(20, "finished")))
    assert _state(*sessions) == "finished"


def test_observers_neither_begin_nor_describe_a_run() -> None:
    observer = _session(1, "observer", experiment="not this", told=(3, "failed"))
    settled = settle([observer, _session(5, experiment="this")])
    assert (settled.state, settled.created_at, settled.started.experiment) == ("running", 5, "this")


def test_a_run_without_an_owner_is_as_its_last_session() -> None:
    assert _state(_session(1, "joined", told=(3, "failed")), _session(2, "joined")) == "running"


def test_a_later_description_wins_and_what_it_leaves_unsaid_stays() -> None:
    settled = settle([_session(5, name="second"), _session(1, name="first", experiment="digits", task="T-1")])
    assert (settled.started.name, settled.started.experiment, settled.started.task) == ("second", "digits", "T-1")


@pytest.mark.parametrize(
    ("exit_code", "signal", "oom", "state", "cause"),
    [
        (0, None, None, "finished", "exit"),
        (3, None, None, "failed", "exit"),
        (None, 9, None, "killed", "signal"),
        (None, 9, True, "killed", "oom"),
        (None, 15, True, "killed", "signal"),
        (None, 11, None, "failed", "signal"),
        (None, 6, False, "failed", "signal"),
        (None, None, None, "lost", "vanished"),
    ],
)
def test_the_end_of_a_process(
    exit_code: int | None, signal: int | None, oom: bool | None, state: str, cause: str
) -> None:
    assert verdict(exit_code, signal, oom) == (state, cause)


def test_a_run_that_is_silent_for_five_minutes_is_lost() -> None:
    minute = 60 * 10**9
    assert shown_state("running", 1, 5 * minute + 1) == "running"
    assert shown_state("running", 1, 5 * minute + 2) == "lost"
    assert shown_state("running", None, 5 * minute + 2) == "running"
    assert shown_state("finished", 1, 9 * minute) == "finished"
