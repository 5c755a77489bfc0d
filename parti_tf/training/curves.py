"""A run's curves as a picture, drawn anew after every epoch."""

import csv
import math
import os
from pathlib import Path

import keras
from matplotlib.figure import Figure

VALIDATION = "val_"


def draw_curves(log: str | os.PathLike, picture: str | os.PathLike) -> Path:
    """Draws every metric of a training log over its epochs, training and held-out side by side, and gives the path.

    Args:
      log: the CSV file that `keras.callbacks.CSVLogger` writes.
      picture: the PNG file to write, whole or not at all.

    Raises:
      ValueError: the log holds no epoch.
    """
    with open(log, newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise ValueError(f"{log} holds no epoch")
    epochs = [int(row["epoch"]) + 1 for row in rows]
    metrics = [name for name in rows[0] if name != "epoch" and not name.startswith(VALIDATION)]
    columns = min(4, len(metrics))
    lines = math.ceil(len(metrics) / columns)
    figure = Figure(figsize=(3.2 * columns, 2.4 * lines), layout="constrained")
    for axes, metric in zip(figure.subplots(lines, columns, squeeze=False).flat, metrics, strict=False):
        for name, label in ((metric, "training"), (VALIDATION + metric, "held out")):
            if name in rows[0]:
                axes.plot(epochs, [float(row[name]) for row in rows], label=label)
        axes.set_title(metric.replace("_", " "), fontsize=9)
        axes.set_xlabel("epoch", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.legend(fontsize=7)
    for axes in figure.axes[len(metrics) :]:
        axes.set_visible(False)
    picture = Path(picture)
    aside = picture.with_name(f".{picture.name}.unfinished")
    figure.savefig(aside, format="png", dpi=110)
    os.replace(aside, picture)
    return picture


class CurvesPicture(keras.callbacks.Callback):
    """Keeps `curves.png` beside the `log.csv` of a run; comes after the callback that writes the log.

    Args:
      folder: of the run.
    """

    def __init__(self, folder: str | os.PathLike):
        super().__init__()
        self.folder = Path(folder)

    def on_epoch_end(self, epoch, logs=None):
        del epoch, logs
        draw_curves(self.folder / "log.csv", self.folder / "curves.png")
