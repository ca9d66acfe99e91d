"""Five model types, a grid over three hyperparameters each, two data sets: done by lunch, and nothing lost.

    python examples/lunch/lunch.py [--quick]

Some of it goes wrong on purpose, as it does in life: solvers that refuse a penalty, a learning rate that diverges, a
process that is killed half way, and a script that knows nothing of Sexton. Afterwards the store is asked what a team
lead asks.
"""

import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.progress import track

import sexton.client
import sexton.settings
from sexton.model.runs import RunFilter

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the search runs in parallel; each run need not

HERE = Path(__file__).parent
GRIDS: dict[str, dict[str, list[Any]]] = {
    "logistic": {"C": [0.1, 1.0, 10.0], "solver": ["saga", "lbfgs", "liblinear"], "l1_ratio": [0.0, 1.0]},
    "svm": {"C": [1.0, 10.0], "kernel": ["linear", "rbf"], "gamma": ["scale", 0.01]},
    "forest": {"n_estimators": [20, 80], "max_depth": [4, None], "max_features": ["sqrt", "log2"]},
    "sgd": {
        "loss": ["log_loss"],
        "alpha": [1e-4, 1e-2],
        "eta0": [0.01, 1.0],
        "learning_rate": ["constant", "adaptive"],
    },
    "mlp": {"hidden_layer_sizes": [[32], [64]], "learning_rate_init": [1e4, 0.01, 0.1], "solver": ["sgd"]},
}


def main() -> None:
    quick = "--quick" in sys.argv
    if "SEXTON_HOME" not in os.environ:
        Path(".sexton").mkdir(exist_ok=True)  # the record of this folder; without it, ~/.sexton would be used
    from report import print_report
    from train import DATA, train

    sweep = f"lunch-{time.strftime('%Y%m%d-%H%M%S')}"
    began = time.monotonic()
    grid = [
        (data, model, dict(zip(values, chosen, strict=True)))
        for data, (model, values) in product(DATA, GRIDS.items())
        for chosen in list(product(*values.values()))[:: 4 if quick else 1]
    ]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        runs = [pool.submit(train, data, model, params, sweep) for data, model, params in grid]
        for run in track(as_completed(runs), f"{len(runs)} runs, {os.cpu_count()} at a time", total=len(runs)):
            run.result()
    kill_half_way(sweep)
    command = [sys.executable, "-m", "sexton", "run", "-e", "lunch/plain", "--sweep", sweep, "--quiet", "--"]
    subprocess.run([*command, sys.executable, str(HERE / "plain.py")], check=True)
    print_report(sweep, time.monotonic() - began)


def kill_half_way(sweep: str) -> None:
    """Start a long training, look at it in the store while it runs, and kill it without warning, as the kernel does
    when memory is short."""
    params = {"hidden_layer_sizes": [128], "learning_rate_init": 0.01, "solver": "sgd"}
    code = f"from train import train; train('digits', 'mlp', {params}, {sweep!r}, epochs=10_000, tag='doomed')"
    chosen = sexton.settings.load()
    store = sexton.client.connect(chosen.url, blobs=chosen.blobs, token=chosen.token)
    with subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(HERE)}) as process:
        while process.poll() is None:
            found = store.runs(RunFilter(sweep=sweep, tags=("doomed",))).runs
            if found and "val/loss" in found[0].metrics and found[0].metrics["val/loss"].count >= 20:
                process.kill()
            time.sleep(0.2)
    store.close()


if __name__ == "__main__":
    main()
