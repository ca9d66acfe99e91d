"""What a team lead asks after the search, answered from the store."""

from collections import defaultdict

from rich.console import Console
from rich.table import Table

from sexton import settings
from sexton.client import Client, connect
from sexton.courier import start as courier
from sexton.model.runs import Run, RunFilter

out = Console()


def print_report(sweep: str, seconds: float) -> None:
    chosen = settings.load()
    left = courier.drain(chosen, seconds=60)
    if left:
        out.print(f"{len(left)} runs are still on their way to {chosen.url}: [bold]sexton doctor[/] says why.")
    store = connect(chosen.url, blobs=chosen.blobs, token=chosen.token)
    runs = store.runs(RunFilter(sweep=sweep, sort="-metrics.val/accuracy", limit=1000)).runs
    out.print(f"\n[bold]{len(runs)} runs in {seconds:.0f} s[/], recorded in {chosen.url}\n")
    print_best(runs)
    print_failures(runs)
    print_time(runs)
    print_bytes(store)
    store.close()
    best = runs[0].id
    out.print("\n[bold]Look further[/] (sexton is in .venv/bin)")
    out.print(f"  sexton ls --sweep {sweep} --sort=-metrics.val/accuracy", highlight=False)
    out.print(f"  sexton show {best}", highlight=False)
    out.print(f"  sexton diff {best} {runs[1].id}", highlight=False)


def print_best(runs: list[Run]) -> None:
    table = Table("data", "run", "accuracy", "model", "settings", title="Best runs", title_justify="left")
    for data in ("digits", "breast-cancer"):
        of_data = [run for run in runs if run.params.get("data") == data and "val/accuracy" in run.metrics]
        for run in of_data[:3]:
            settings_ = {k: v for k, v in run.params.items() if k not in ("model", "data", "seed", "loss")}
            told = " ".join(f"{key}={value}" for key, value in settings_.items())
            table.add_row(data, run.id, f"{run.metrics['val/accuracy'].best:.4f}", run.params["model"], told)
    out.print(table)


def print_failures(runs: list[Run]) -> None:
    table = Table("runs", "state", "model", "why", title="What failed, and why", title_justify="left")
    causes: dict[tuple[str, str, str], int] = defaultdict(int)
    for run in runs:
        if run.state != "finished":
            why = (run.message or f"{run.cause} {run.signal}").split(". ")[0]
            causes[run.state, run.params.get("model", "?"), why] += 1
    for (state, model, why), count in sorted(causes.items(), key=lambda item: -item[1]):
        table.add_row(str(count), state, model, why)
    out.print(table)


def print_time(runs: list[Run]) -> None:
    table = Table(
        "model", "runs", "failed", "wall s", "CPU s", "best", title="Where the time went", title_justify="left"
    )
    by_model: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_model[run.params.get("model", run.name or "?")].append(run)
    for model, group in sorted(by_model.items()):
        failed = sum(run.state != "finished" for run in group)
        wall = sum(run.seconds or 0 for run in group)
        known = [run.cpu_seconds for run in group if run.cpu_seconds is not None]
        cpu = f"{sum(known):.1f}" + ("" if len(known) == len(group) else f" ({len(group) - len(known)} unknown)")
        best = max(
            (float(run.metrics["val/accuracy"].best or 0) for run in group if "val/accuracy" in run.metrics),
            default=None,
        )
        table.add_row(model, str(len(group)), str(failed), f"{wall:.1f}", cpu, "-" if best is None else f"{best:.4f}")
    out.print(table)


def print_bytes(store: Client) -> None:
    total = store.storage("kind").total
    share = f" ({total.stored / total.logical:.0%})" if total.logical else ""
    out.print(
        f"\nModels and checkpoints: {total.logical / 1e6:.1f} MB saved by {total.artifacts} artifacts of this store, "
        f"{total.stored / 1e6:.1f} MB stored{share}: equal parts once, all of it compressed."
    )
