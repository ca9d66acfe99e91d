"""Series of files as training leaves them, made by really training small models; runs where torch and scikit-learn are.

    python checkpoints.py FOLDER [--quick]

Each folder in FOLDER is a series: the files of one run or of several, in the order in which they were saved. All of it
takes a minute or two and has about 1.1 GB; with `--quick` the models are tiny, and the figures say nothing.
"""

import csv
import pickle
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch  # type: ignore[import-not-found]  # no dependency
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from torch import nn

EPOCHS = 6
STEPS = 3  # between two checkpoints; one would already change every number of an AdamW state


class Block(nn.Module):  # type: ignore[misc]  # torch is no dependency
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Any) -> Any:
        y = self.norms[0](x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.down(nn.functional.gelu(self.up(self.norms[1](x))))


class Model(nn.Module):  # type: ignore[misc]  # torch is no dependency
    """Predicts the next byte of a text, here of the source of Python's own library."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.bytes = nn.Embedding(256, width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(layers)))
        self.head = nn.Linear(width, 256)

    def forward(self, text: Any) -> Any:
        return self.head(self.blocks(self.bytes(text)))


class Adapted(nn.Module):  # type: ignore[misc]  # torch is no dependency
    """A linear layer that learns by two thin matrices beside it (LoRA)."""

    def __init__(self, linear: Any, rank: int = 8) -> None:
        super().__init__()
        self.linear = linear
        self.a = nn.Parameter(torch.randn(rank, linear.in_features) / 100)
        self.b = nn.Parameter(torch.zeros(linear.out_features, rank))

    def forward(self, x: Any) -> Any:
        return self.linear(x) + x @ self.a.T @ self.b.T


def _text() -> Any:
    sources = sorted(Path(shutil.__file__).parent.glob("*.py"))[:60]
    return torch.tensor(np.frombuffer(b"".join(path.read_bytes() for path in sources), np.uint8).astype(np.int64))


def _epochs(model: Any, rate: float, seed: int = 0, epochs: int = EPOCHS) -> Iterator[dict[str, Any]]:
    """Train, and stop after each epoch with the state to save."""
    torch.manual_seed(seed)
    text = _text()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    for epoch in range(epochs):
        for _ in range(STEPS):
            starts = torch.randint(0, len(text) - 65, (2,))
            batch = torch.stack([text[start : start + 65] for start in starts])
            logits = model(batch[:, :-1]).float()
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        yield {"epoch": epoch, "model": model.state_dict(), "optimizer": optimizer.state_dict()}


def _flat(state: dict[str, Any]) -> dict[str, Any]:
    """As safetensors has it: one name a tensor."""
    flat = {f"model.{name}": value for name, value in state["model"].items()}
    for number, moments in state["optimizer"]["state"].items():
        flat |= {f"optimizer.state.{number}.{name}": value for name, value in moments.items()}
    return flat


def _save(folder: Path, states: Iterator[dict[str, Any]], *, torch_zip: bool = True) -> None:
    for state in states:
        if torch_zip:
            torch.save(state, folder / f"epoch_{state['epoch']:02}.pt")
        else:
            save_file(_flat(state), folder / f"epoch_{state['epoch']:02}.safetensors")


def adamw(folder: Path, width: int) -> None:
    """A model trained from scratch in fp32, with the state of AdamW."""
    torch.manual_seed(1)
    _save(folder, _epochs(Model(width, 4), 6e-4))


def bf16(folder: Path, width: int) -> None:
    """The same in bf16, optimizer included."""
    torch.manual_seed(1)
    _save(folder, _epochs(Model(width, 4).bfloat16(), 6e-4), torch_zip=False)


def frozen(folder: Path, width: int) -> None:
    """Only the head is trained, and the whole model is saved each time."""
    torch.manual_seed(1)
    model = Model(width, 8)
    model.blocks.requires_grad_(False)
    model.bytes.requires_grad_(False)
    _save(folder, _epochs(model, 1e-3, epochs=2 * EPOCHS))


def lora(folder: Path, width: int) -> None:
    """LoRA, and the base is saved each time too."""
    torch.manual_seed(1)
    model = Model(width, 4).requires_grad_(False)
    for block in model.blocks:
        block.up, block.down = Adapted(block.up), Adapted(block.down)
    _save(folder, _epochs(model, 1e-3, epochs=2 * EPOCHS))


def rerun(folder: Path, width: int) -> None:
    """One run, and the same once more with the same seed; what the second adds is what counts."""
    for run in ("a", "b"):
        (folder / run).mkdir()
        torch.manual_seed(3)
        _save(folder / run, _epochs(Model(width, 2), 6e-4, seed=3, epochs=3))


def copies(folder: Path, width: int) -> None:
    """One state under three names, which torch writes into the files."""
    torch.manual_seed(4)
    (state,) = _epochs(Model(width, 4), 6e-4, epochs=1)
    for name in ("a-epoch_00.pt", "best.pt", "last.ckpt"):
        torch.save(state, folder / name)


def table(folder: Path, width: int) -> None:
    """Predictions of a classifier, a file to which each epoch appends."""
    random = np.random.default_rng(5)
    lines: list[tuple[object, ...]] = []
    digits = load_digits()
    for epoch in range(10):
        forest = RandomForestClassifier(5, random_state=epoch, max_depth=6).fit(digits.data, digits.target)
        chances = forest.predict_proba(digits.data)
        for row in random.integers(0, len(chances), width * 80):
            label = int(chances[row].argmax())
            lines.append((len(lines), epoch, int(row), int(digits.target[row]), label, f"{chances[row][label]:.4f}"))
        with (folder / f"predictions_{epoch:02}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(lines)


def forest(folder: Path, width: int) -> None:
    """A random forest that grows, pickled after each growth."""
    digits = load_digits()
    model = RandomForestClassifier(warm_start=True, random_state=0, n_jobs=1)
    for trees in range(width // 4, width * 2 + 1, width // 4):
        model.set_params(n_estimators=trees).fit(digits.data, digits.target)
        (folder / f"forest_{trees:04}.pkl").write_bytes(pickle.dumps(model))


SERIES = (frozen, lora, adamw, bf16, table, forest, rerun, copies)


def main() -> None:
    folder, quick = Path(sys.argv[1]), "--quick" in sys.argv
    torch.set_num_threads(1)
    for make in SERIES:
        own = folder / make.__name__
        own.mkdir(parents=True)
        make(own, 64 if quick else 256)
        print(f"{make.__name__}: {sum(path.stat().st_size for path in own.rglob('*.*')) / 1e6:.0f} MB", flush=True)


if __name__ == "__main__":
    main()
