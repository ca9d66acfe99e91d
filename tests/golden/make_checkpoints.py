"""Made `checkpoints/`: small checkpoints of a model that was really trained by torch, as training scripts save them.

`python tests/golden/make_checkpoints.py` made them, with torch 2.13.0, safetensors 0.8.0 and zstandard, which are no
dependencies of the tests. Never made again: what they are cut into is in `chunks.json`, and must stay so.
"""

import io
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch  # type: ignore[import-not-found]  # no dependency
import zstandard
from safetensors.torch import save
from torch import nn

FOLDER = Path(__file__).parent / "checkpoints"


def trained() -> tuple[Any, Any]:
    """A model that tells which of ten tags five words have, and its optimizer."""
    torch.manual_seed(7)
    model = nn.Sequential(
        OrderedDict(words=nn.Embedding(160, 32), flat=nn.Flatten(), norm=nn.BatchNorm1d(160), tags=nn.Linear(160, 10))
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(20):
        words = torch.randint(0, 60, (32, 5))  # the other words never come: their moments stay 0
        loss = nn.functional.cross_entropy(model(words), words.sum(1) % 10)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model, optimizer


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    model, optimizer = trained()
    state = {"epoch": 3, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    for name in ("best.pt", "last-v2.ckpt"):  # torch writes the name into the file
        path = FOLDER / name
        torch.save(state, path)
        _keep(name, path.read_bytes())
        path.unlink()
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors["half.words.weight"] = model.words.weight.detach().bfloat16()
    for number, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.state.{number}.{name}": value for name, value in moments.items()}
    _keep("adamw.safetensors", save(tensors, metadata={"epoch": "3"}))
    arrays = io.BytesIO()
    words = model.words.weight.detach().numpy()
    np.savez(
        arrays,
        f8=words.round(1).astype("f8"),
        f2=words.round(1).astype("f2"),
        order=np.argsort(words, axis=1).astype("i4"),
    )
    _keep("words.npz", arrays.getvalue())


def _keep(name: str, data: bytes) -> None:
    (FOLDER / f"{name}.zst").write_bytes(zstandard.compress(data, level=19))


if __name__ == "__main__":
    main()
