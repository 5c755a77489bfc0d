"""What a run keeps of itself: written whole or not at all, and taken up again where it ends."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf


class BackupAndRestore(keras.callbacks.Callback):
    """Saves the whole training state after every epoch, and restores the last one before the first.

    Model and optimizer (its step and slots) go into one `tf.train.Checkpoint`, whose index is renamed into
    place last, so a run killed while saving restores the checkpoint before. Keras' own callback of this name
    writes weights and epoch number as two files and can be left with one of each.

    Random states are not saved, they are set: at the start of every epoch, from the run's seed and the epoch.
    Dropout, caption dropout and restarted codes then depend on the step alone, as the data do. (Keras keeps
    the state of its seed generators out of TensorFlow's checkpoints.)

    Args:
      folder: where checkpoints live; the last two are kept.
      seed: of the run.
    """

    def __init__(self, folder: str | Path, seed: int):
        super().__init__()
        self.folder = Path(folder)
        self.seed = seed
        self._manager: tf.train.CheckpointManager | None = None

    def restore(self, model: keras.Model) -> int:
        """Loads the newest checkpoint into a compiled model and gives the optimizer steps it had made, 0 for none.

        Raises:
          ValueError: the checkpoint belongs to a model of other shapes.
        """
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
        self._manager = tf.train.CheckpointManager(checkpoint, str(self.folder), max_to_keep=2)
        newest = self._manager.latest_checkpoint
        if newest is None:
            return 0
        try:
            checkpoint.restore(newest).assert_existing_objects_matched()
        except (ValueError, AssertionError, tf.errors.OpError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"checkpoint {newest} does not fit this model: {reason}") from None
        return int(model.optimizer.iterations.numpy())

    def on_epoch_begin(self, epoch, logs=None):
        del logs
        states = [variable for variable in self.model.variables if variable.name == "seed_generator_state"]
        for index, state in enumerate(states):
            state.assign(np.random.SeedSequence([self.seed, epoch, index]).generate_state(2, np.uint32))

    def on_epoch_end(self, epoch, logs=None):
        del logs
        if self._manager is None:
            raise ValueError("BackupAndRestore.restore(model) must be called before fit")
        self._manager.save(checkpoint_number=epoch + 1)


class BestWeights(keras.callbacks.Callback):
    """Keeps the weights of the epoch whose metric was least, as `best.weights.h5` beside `best.json`.

    Both files are renamed into place, the weights first, and the least value so far is read back from the
    second. So a resumed run does not take its first epoch for its best, and one killed between the two
    writes the same weights again. Keras' `ModelCheckpoint` does neither.

    Args:
      folder: of the run.
      monitor: name of the metric.
      part: gives the part of the trained model whose weights are kept.
    """

    def __init__(self, folder: str | Path, monitor: str, part: Callable[[keras.Model], keras.Model]):
        super().__init__()
        self.weights_path = Path(folder) / "best.weights.h5"
        self.value_path = Path(folder) / "best.json"
        self.monitor = monitor
        self.part = part

    def on_epoch_end(self, epoch, logs=None):
        if self.monitor not in (logs or {}):
            raise ValueError(f"monitor is {self.monitor!r}; this run's metrics are {', '.join(sorted(logs or {}))}")
        value = float(logs[self.monitor])
        if self.value_path.exists() and not value < json.loads(self.value_path.read_text())[self.monitor]:
            return
        aside = self.weights_path.with_name("unfinished.weights.h5")
        self.part(self.model).save_weights(aside)
        os.replace(aside, self.weights_path)
        write_json(self.value_path, {"epoch": epoch + 1, self.monitor: value})


def write_json(path: Path, values: dict) -> None:
    """Writes a small JSON file, whole or not at all."""
    aside = path.with_name(f".{path.name}.unfinished")
    aside.write_text(json.dumps(values, indent=2) + "\n")
    os.replace(aside, path)
