"""`sexton storage`, `fsck`, `scrub` and `collect`: what the bytes of artifacts take, and whether they are well.

The last three are done where the store is, by somebody who can open it: no server takes them from a client.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, get_args

import msgspec
import typer

from sexton import errors, settings
from sexton.cli.options import Json, Url
from sexton.model.storage import Grouping

if TYPE_CHECKING:
    from sexton.api import Local
    from sexton.model.storage import Total
    from sexton.storage.collect import Plan
    from sexton.storage.fsck import Finding

_SHOWN = 20
"""Of a long list; `--json` has all of it."""


@contextmanager
def _opened(url: str | None, act: str) -> "Iterator[Local]":
    """The store itself. Raises `UsageError` where the address is that of a server."""
    chosen = settings.load(url=url)
    if chosen.url.startswith(("http://", "https://")):
        reason = f"`sexton {act}` works on the store itself: run it where the server runs, with its --store as --url"
        raise errors.UsageError(reason=reason)
    from sexton.api import Local

    local = Local.open(chosen.url, chosen.blobs)
    try:
        yield local
    finally:
        local.close()


def storage(
    by: Annotated[
        str, typer.Option("--by", metavar="WHAT", help="project, experiment, user, kind or series (a name in a run).")
    ] = "experiment",
    limit: Annotated[int, typer.Option("--limit", metavar="N", help="So many groups, those with the most bytes.")] = 20,
    url: Url = None,
    json: Json = False,
) -> None:
    """Show what artifacts take: the bytes that were saved, and those that are stored for them, each once.

    `alone` is what no other group needs: what letting go of the group would free.
    """
    from sexton.cli import options, render, text
    from sexton.cli.render import Column

    grouping = next((known for known in get_args(Grouping) if known == by), None)
    if grouping is None:
        raise errors.InvalidValue(what="--by", value=repr(by), reason=f"it is {', '.join(get_args(Grouping))}")
    price = settings.load(url=url).storage_price
    with options.store(url) as client:
        found = client.storage(grouping, limit)
    if json:
        render.emit(found)
        return
    total, shown = found.total, found.groups
    _say(f"{text.size(total.logical)} saved in {text.count(total.artifacts, 'artifact')}: {_part(total)}.")
    _say(f"{text.size(total.packs)} in packs, {_dollars(total.packs, price)}.")
    columns = [
        Column(by, [" ".join(text.plain(part or "unknown") for part in one.key) for one in shown]),
        Column("artifacts", [f"{one.artifacts:,}" for one in shown], rank=3, right=True),
        Column("saved", [text.size(one.logical) for one in shown], right=True),
        Column("stored", [text.size(one.stored) for one in shown], right=True),
        Column("alone", [text.size(one.alone) for one in shown], rank=1, right=True),
        Column("a month", [_dollars(one.stored, price) for one in shown], rank=2, right=True),
    ]
    if shown:
        render.Screen().table(columns)
    if price is None:
        _say("unpriced: set storage_price to what a GB costs there a month, in dollars.")


def _part(total: "Total") -> str:
    from sexton.cli import text

    share = f", {total.stored / total.logical:.1%} of it" if total.logical else ""
    return f"{text.size(total.stored)} stored{share}"


def _dollars(bytes_: int, price: float | None) -> str:
    """What bytes cost a month."""
    return "unpriced" if price is None else f"${bytes_ / 1e9 * price:,.2f}"


# ---------------------------------------------------------------------------------------------------------- scrub


def scrub(
    budget: Annotated[
        str, typer.Option("--budget", metavar="SHARE", help="How much of what is stored to read: 1%, 100%.")
    ] = "100%",
    url: Url = None,
    json: Json = False,
) -> int:
    """Read stored bytes again and see that they are what they were. Those that nobody has read for longest come first.

    Exits with 6 where bytes are damaged.
    """
    from sexton.cli import render, text
    from sexton.cli.progress import Arrivals
    from sexton.storage import scrub as scrubbing

    share = _share(budget)
    with _opened(url, "scrub") as local:
        packs = scrubbing.choose(local.database, share)
        with Arrivals(sum(pack.bytes for pack in packs)) as reading:
            done = scrubbing.scrub(local.database, local.place, local.actor, packs, reading.arrived)
    if json:
        render.emit(done)
    else:
        _say(f"{text.count(done.packs, 'pack')} read, {text.size(done.bytes)}, {done.chunks:,} chunks.")
        if done.mended:
            _say(f"{text.count(done.mended, 'chunk')} thought to be damaged: whole after all.")
        for damage in done.damaged:
            _say(f"{damage.pack}: {text.count(damage.chunks, 'chunk')} damaged: {text.prose(damage.reason)}")
            for named in damage.artifacts[:_SHOWN]:
                _say(f"  {named.run} {text.plain(named.name)}")
            _more(len(damage.artifacts))
        if done.damaged:
            _say("Save the same files again, in any run, and they are whole again.")
    return 6 if done.damaged else 0


def _share(budget: str) -> float:
    """The share in `1%`. Raises `InvalidValue`."""
    try:
        share = float(budget.removesuffix("%")) / 100
    except ValueError:
        share = -1.0
    if not budget.endswith("%") or not 0 < share <= 1:
        raise errors.InvalidValue(what="--budget", value=repr(budget), reason="it is above 0% and at most 100%")
    return share


# ---------------------------------------------------------------------------------------------------------- fsck


def fsck(
    repair: Annotated[bool, typer.Option("--repair", help="Mark what is missing, write what can be written.")] = False,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Put lost tables together again from the stored objects.")
    ] = False,
    url: Url = None,
    json: Json = False,
) -> int:
    """See that the store's tables and its stored objects agree. Reads no artifact (`sexton scrub` does).

    Exits with 6 where something is wrong and was not repaired.
    """
    from sexton.cli import render, text
    from sexton.storage import fsck as checking

    with _opened(url, "fsck") as local:
        if rebuild:
            built = checking.rebuild(local.database, local.place, local.actor)
            findings, done = built.findings, msgspec.to_builtins(built)
            counted = f"{text.count(built.packs, 'pack')} with {built.chunks:,} chunks, "
            told = f"Known again: {counted}{text.count(built.manifests, 'manifest')}, {built.artifacts:,} artifacts."
        else:
            checked = checking.check(local.database, local.place, local.actor, repair)
            findings, done = checked.findings, msgspec.to_builtins(checked)
            told = f"{text.count(checked.packs, 'pack')} and {text.count(checked.manifests, 'manifest')} looked at."
    if json:
        render.emit(done)
    else:
        _say(told)
        _print_findings(findings)
    return 6 if any(not one.is_repaired for one in findings) else 0


def _print_findings(findings: "list[Finding]") -> None:
    from sexton.cli import text

    for one in findings[:_SHOWN]:
        _say(f"{text.plain(one.what)}: {text.prose(one.reason)}{' (repaired)' if one.is_repaired else ''}")
    _more(len(findings))
    if any(not one.is_repaired for one in findings):
        _say("`sexton fsck --repair` marks what is gone, so that saving the same files again brings it back.")
    elif not findings:
        _say("All is well.")


# ---------------------------------------------------------------------------------------------------------- collect


def collect(
    apply: Annotated[
        bool, typer.Option("--apply", help="Do it. Without this, only what would be done is shown.")
    ] = False,
    confirm: Annotated[
        bool, typer.Option("--confirm", help="Also where much would go at once; see what it is before.")
    ] = False,
    grace: Annotated[float, typer.Option("--grace", metavar="HOURS", help="How long what nothing needs stays.")] = 72.0,
    url: Url = None,
    json: Json = False,
) -> int:
    """Let go of stored bytes that no artifact needs any more. Shows what it would do, unless told to do it.

    Exits with 1 where it may not be done.
    """
    from sexton import clock
    from sexton.cli import render, text
    from sexton.storage import collect as collecting

    if not 0 <= grace <= 24 * 366:
        raise errors.InvalidValue(what="--grace", value=str(grace), reason="it is 0 to 8,784 hours")
    with _opened(url, "collect") as local:
        plan = collecting.plan(local.database, local.place, clock.now(), int(grace * 3600 * clock.SECOND))
        done = collecting.apply(local.database, local.place, local.actor, plan, confirm) if apply else None
    if json:
        render.emit(done or plan)
    elif done:
        _say(f"Freed {text.size(done.bytes)}: {text.count(done.packs, 'pack')}, {done.chunks:,} chunks.")
        _say(f"Condemned {done.loose:,} chunks of {text.count(done.condemned, 'artifact')}, to go later.")
    else:
        _print_plan(plan)
    return 1 if plan.refusals and not done else 0


def _print_plan(plan: "Plan") -> None:
    from sexton.cli import text

    _say(f"Stored: {text.size(plan.stored.bytes)} in {text.count(plan.stored.count, 'pack')}.")
    _say(f"Needed: {text.size(plan.live.bytes)} in {plan.live.count:,} chunks.")
    if plan.idle:
        _say("There is nothing to let go of.")
    else:
        _say(f"Would free now: {text.size(plan.freed.bytes)} in {text.count(plan.freed.count, 'pack')}.")
        _say(f"Would condemn: {text.size(plan.loose.bytes)} in {plan.loose.count:,} chunks, to go after the grace.")
        if plan.orphans:
            _say(f"Would remove {text.count(len(plan.orphans), 'object')} of uploads that never ended.")
    if plan.quarantined:
        _say(f"{text.count(len(plan.quarantined), 'object')} of uploads unknown here: left alone.")
    for refusal in plan.refusals:
        _say(f"Would be refused: {text.prose(refusal.reason)}")
    if not plan.idle and not plan.refusals:
        _say("`sexton collect --apply` does it.")


def _more(count: int) -> None:

    if count > _SHOWN:
        _say(f"  and {count - _SHOWN:,} more; --json has all")


def _say(line: str) -> None:
    """A line of the answer."""
    from sexton.cli import render

    render.Screen().line(line)
