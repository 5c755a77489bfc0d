"""The one place where a training run is put together: strategy, data, compile, callbacks and `fit`.

The order, and why: the model is built and compiled under the strategy, so that its variables are placed once; the
folder is claimed only then, so that a configuration that cannot be built leaves nothing behind; the last checkpoint
is restored before the data is opened, because the data of step N is a function of seed and N; then `fit` starts.
"""

import contextlib
import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from parti_tf import config as config_lib
from parti_tf.config import TrainingConfig
from parti_tf.training.checkpoint import BackupAndRestore, BestWeights, write_json
from parti_tf.training.curves import CurvesPicture
from parti_tf.training.optimizer import make_optimizer

CONFIG, LOG = "config.json", "log.csv"


class StopAtNan(keras.callbacks.Callback):
    """Ends a run whose loss is no finite number any more, before that reaches a checkpoint."""

    def on_train_batch_end(self, batch, logs=None):
        del batch
        loss = float((logs or {}).get("loss", 0.0))
        if not math.isfinite(loss):
            step = int(self.model.optimizer.iterations)
            raise ValueError(
                f"the loss is {loss} at step {step}; the last checkpoint is from before it, and a lower "
                "optimizer.learning_rate or clip_norm may get past it, in another run folder"
            )


def train(
    make_model: Callable[[], keras.Model],
    make_dataset: Callable[[int], tf.data.Dataset],
    validation: tf.data.Dataset,
    config: TrainingConfig,
    run_folder: str | Path,
    monitor: str,
    *,
    part: Callable[[keras.Model], keras.Model] = lambda model: model,
    identity: Mapping[str, Any] | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    strategy: tf.distribute.Strategy | None = None,
) -> keras.Model:
    """Trains a model to `config.total_steps`, going on from the run folder's last checkpoint if there is one.

    Killed at any moment and started again with the same arguments, a run ends with the weights it would have
    had: every epoch's data and random draws follow from the seed, and an epoch that was cut off is repeated.

    Args:
      make_model: gives the built model; called under the strategy.
      make_dataset: gives the endless training batches from a step on; must be a pure function of it.
      validation: finite batches, run after every epoch.
      config: the run's hyperparameters.
      run_folder: gets `config.json`, `checkpoints/`, `best.weights.h5`, `log.csv`, `curves.png` and TensorBoard's
        `events/`.
      monitor: the metric whose least value makes the best weights; one that begins `val_`.
      part: gives the part of the model whose best weights are kept.
      identity: what else makes the run what it is, as plain values by name; kept in `config.json` too.
      callbacks: further ones, run before the checkpoint is written.
      strategy: a `tf.distribute` strategy; None is the default one.

    Returns:
      The trained model, at its last step.

    Raises:
      ValueError: the folder holds a run of another configuration, or the loss became NaN.
      KeyboardInterrupt: Ctrl-C; the last checkpoint is whole.
    """
    folder = Path(run_folder)
    backup = BackupAndRestore(folder / "checkpoints", config.seed)
    with (strategy or tf.distribute.get_strategy()).scope():
        with _python_seed(config.seed):
            model = make_model()
        optimizer = make_optimizer(config, model.trainable_variables)
        model.compile(optimizer=optimizer, jit_compile=config.jit_compile)
        _claim_folder(folder, {**config_lib.to_dict(config), **(identity or {})})
        done = backup.restore(model)
    if done >= config.total_steps:
        return model
    epochs_done = done // config.steps_per_epoch
    _cut_log(folder / LOG, epochs_done)
    model.fit(
        make_dataset(done),
        steps_per_epoch=config.steps_per_epoch,
        initial_epoch=epochs_done,
        epochs=config.total_steps // config.steps_per_epoch,
        validation_data=validation,
        shuffle=False,
        callbacks=[
            StopAtNan(),
            *callbacks,
            keras.callbacks.CSVLogger(str(folder / LOG), append=True),
            CurvesPicture(folder),
            keras.callbacks.TensorBoard(str(folder / "events"), write_graph=False),
            BestWeights(folder, monitor, part),
            backup,
        ],
    )
    return model


@contextlib.contextmanager
def _python_seed(seed: int) -> Iterator[None]:
    """Sets the random state that Keras takes its initializers' seeds from, and puts the old one back.

    `keras.utils.set_random_seed` would also set TensorFlow's, which empties its caches of ops, and with them the
    SentencePiece models that live there.
    """
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


def _claim_folder(folder: Path, identity: dict[str, Any]) -> None:
    """Writes what makes the run into its folder, or makes sure that it is what is already there."""
    path, wanted = folder / CONFIG, json.loads(json.dumps(identity))
    found = json.loads(path.read_text()) if path.exists() else {}
    different = _differences(found, wanted)
    if different:
        raise ValueError(f"{folder} holds another run ({'; '.join(different)}); name another folder or delete this one")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, {**found, **wanted})


def _cut_log(path: Path, epochs: int) -> None:
    """Takes from a log the epochs that no checkpoint has: they will be repeated."""
    if path.exists():
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(lines[: epochs + 1 if epochs else 0]))


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Names the fields, by their dotted names, in which two nested configurations differ."""
    different = []
    for name in sorted(set(found) & set(wanted)):
        if isinstance(found[name], dict) and isinstance(wanted[name], dict):
            different += _differences(found[name], wanted[name], f"{prefix}{name}.")
        elif found[name] != wanted[name]:
            different.append(f"{prefix}{name} is {found[name]!r} there, {wanted[name]!r} here")
    return different


def take_weights(target: keras.Model, trained: keras.Model, run_folder: str | Path, weights: str) -> None:
    """Copies the weights of a finished run into a model of its own dtype.

    Args:
      target: gets the weights.
      trained: the same part of the trained model.
      run_folder: of the run.
      weights: `last` or `best`; see `TrainOptions`.
    """
    if weights == "last":
        target.set_weights(trained.get_weights())
    else:
        target.load_weights(Path(run_folder) / "best.weights.h5")
