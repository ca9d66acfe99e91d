"""One run of the search: train one model on one data set, recorded with Sexton."""

import tempfile
import warnings
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

import sexton

DATA = {"digits": load_digits, "breast-cancer": load_breast_cancer}
AT_ONCE = {"logistic": LogisticRegression, "svm": SVC, "forest": RandomForestClassifier}
IN_EPOCHS = {"sgd": SGDClassifier, "mlp": MLPClassifier}


def train(data: str, model: str, params: dict[str, Any], sweep: str, epochs: int = 10, tag: str = "demo") -> None:
    """Train and record. A setting that fails is in the record with its reason; it must not end the search."""
    warnings.simplefilter("ignore")  # a search tries settings that scikit-learn warns about
    features, labels = DATA[data](return_X_y=True)
    train_x, val_x, train_y, val_y = train_test_split(features, labels, test_size=0.3, random_state=0, stratify=labels)
    try:
        with sexton.start(
            experiment=f"lunch/{data}",
            params={"model": model, "data": data, "seed": 0, **params},
            tags=[tag],
            sweep=sweep,
            hypothesis="one of five model types is clearly best on this data",
        ) as run:
            run.maximize("val/accuracy")
            run.minimize("val/loss")
            if model in AT_ONCE:
                train_at_once(run, AT_ONCE[model](random_state=0, **params), train_x, val_x, train_y, val_y)
            else:
                estimator = IN_EPOCHS[model](random_state=0, **params)
                train_in_epochs(run, estimator, train_x, val_x, train_y, val_y, epochs)
    except ValueError:
        pass


def train_at_once(run: sexton.Run, model: Any, train_x: Any, val_x: Any, train_y: Any, val_y: Any) -> None:
    pipeline = make_pipeline(StandardScaler(), model).fit(train_x, train_y)
    run.log({"train/accuracy": pipeline.score(train_x, train_y), "val/accuracy": pipeline.score(val_x, val_y)})
    save(run, pipeline, kind="model")


def train_in_epochs(
    run: sexton.Run, model: Any, train_x: Any, val_x: Any, train_y: Any, val_y: Any, epochs: int
) -> None:
    scaler = StandardScaler().fit(train_x)
    train_x, val_x, classes = scaler.transform(train_x), scaler.transform(val_x), np.unique(train_y)
    for epoch in range(epochs):
        try:
            model.partial_fit(train_x, train_y, classes=classes)
        except ValueError:
            run.log({"val/loss": float("nan")}, step=epoch)  # diverged: the weights are not finite any more
            raise
        accuracy = model.score(val_x, val_y)
        loss = log_loss(val_y, model.predict_proba(val_x), labels=classes)
        run.log(
            {"train/accuracy": model.score(train_x, train_y), "val/accuracy": accuracy, "val/loss": loss}, step=epoch
        )
        save(run, model, kind="checkpoint", step=epoch, metrics={"val/accuracy": accuracy})
    save(run, model, kind="model")  # the same bytes as the last checkpoint


def save(run: sexton.Run, model: Any, kind: str, **about: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"{kind}.joblib")
        joblib.dump(model, path)
        run.save(path, kind=kind, **about)
