import csv
import dataclasses
import json
import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from parti_tf.config import OptimizerConfig, TrainingConfig
from parti_tf.training import trainer

CONFIG = TrainingConfig(
    total_steps=8,
    steps_per_epoch=4,
    batch_size=2,
    jit_compile=False,
    optimizer=OptimizerConfig(learning_rate=0.1, final_rate=0.01, warmup_steps=1),
)


class Line(keras.Model):
    """Learns to map inputs to their sum."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def build(self, input_shape=None):
        self.dense.build((None, 3))
        self.built = True

    def call(self, inputs, training=False):
        return self.dense(inputs)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return ops.mean(ops.square(ops.cast(y_pred[:, 0], "float32") - ops.sum(x, axis=-1)))


def make_model() -> Line:
    model = Line()
    model.build()
    return model


def make_dataset(step: int, poison: float = 0.0) -> tf.data.Dataset:
    rows = tf.data.Dataset.range(step, 1_000)
    return rows.map(lambda row: tf.random.stateless_normal([2, 3], [0, row]) + (poison if row == 5 else 0.0))


VALIDATION = tf.data.Dataset.from_tensors(tf.ones([2, 3]))


def train(folder, config=CONFIG, make_model=make_model, make_dataset=make_dataset, **options):
    return trainer.train(make_model, make_dataset, VALIDATION, config, folder, "val_loss", **options)


def weights(model) -> list[float]:
    return np.concatenate([np.ravel(weight) for weight in model.get_weights()]).tolist()


def test_a_run_leaves_its_configuration_curves_and_weights(tmp_path):
    model = train(tmp_path, identity={"model": {"width": 1}})
    assert int(model.optimizer.iterations) == 8
    assert json.loads((tmp_path / "config.json").read_text()) == {**dataclasses.asdict(CONFIG), "model": {"width": 1}}
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert float(rows[1]["val_loss"]) < float(rows[0]["val_loss"])
    assert {path.name for path in tmp_path.iterdir()} == {
        "best.json", "best.weights.h5", "checkpoints", "config.json", "curves.png", "events", "log.csv"
    }  # fmt: skip
    assert {path.name for path in (tmp_path / "events").iterdir()} == {"train", "validation"}


def test_the_seed_decides_the_first_weights_and_the_global_random_state_stays(tmp_path):
    state = random.getstate()
    first = [weights(train(tmp_path / str(run), dataclasses.replace(CONFIG, seed=run // 2))) for run in range(3)]
    assert first[0] == first[1] != first[2]
    assert random.getstate() == state


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"batch_size": 4}, "batch_size is 2 there, 4 here"),
        (
            {"optimizer": dataclasses.replace(CONFIG.optimizer, beta_1=0.5)},
            "optimizer.beta_1 is 0.9 there, 0.5 here",
        ),
        ({"total_steps": 12, "seed": 7}, "seed is 0 there, 7 here; total_steps is 8 there, 12 here"),
    ],
)
def test_a_folder_of_another_run_is_refused_by_what_differs(tmp_path, changes, difference):
    train(tmp_path)
    with pytest.raises(ValueError, match=f"holds another run \\({difference}\\); name another folder"):
        train(tmp_path, dataclasses.replace(CONFIG, **changes))


def test_another_model_in_the_folder_is_refused_by_what_differs(tmp_path):
    train(tmp_path, identity={"model": {"width": 1, "depth": 2}})
    with pytest.raises(ValueError, match=r"\(model.depth is 2 there, 3 here\)"):
        train(tmp_path, identity={"model": {"width": 1, "depth": 3}})


def test_what_cannot_be_built_leaves_nothing_behind(tmp_path):
    late = dataclasses.replace(CONFIG, optimizer=dataclasses.replace(CONFIG.optimizer, warmup_steps=8))
    with pytest.raises(ValueError, match="warmup_steps is 8"):
        train(tmp_path / "run", late)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_no_number_ends_the_run_and_spares_the_checkpoint(tmp_path):
    with pytest.raises(ValueError, match=r"the loss is nan at step 6; the last checkpoint is from before it"):
        train(tmp_path, make_dataset=lambda step: make_dataset(step, poison=float("nan")))
    assert [path.name for path in (tmp_path / "checkpoints").glob("*.index")] == ["ckpt-1.index"]
    model = train(tmp_path)
    assert np.isfinite(weights(model)).all()


class PressCtrlC(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == 6:
            raise KeyboardInterrupt


def test_after_ctrl_c_the_same_call_goes_on(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", callbacks=[PressCtrlC()])
    assert weights(train(tmp_path / "stopped")) == weights(train(tmp_path / "whole"))


def test_an_epoch_that_was_logged_but_not_saved_is_logged_once(tmp_path):
    train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", callbacks=[PressCtrlC()])
    log = tmp_path / "stopped" / "log.csv"
    log.write_text(log.read_text() + "1,0.5,0.5\n")
    train(tmp_path / "stopped")
    assert log.read_text() == (tmp_path / "whole" / "log.csv").read_text()


def test_mixed_precision_keeps_float32_variables(tmp_path):
    def make_mixed() -> keras.Model:
        model = Line()
        model.dense = keras.layers.Dense(1, dtype="mixed_bfloat16")
        model.build()
        return model

    model = train(tmp_path, make_model=make_mixed)
    assert model.dense.compute_dtype == "bfloat16"
    assert {weight.dtype for weight in (*model.weights, *model.optimizer.variables[2:])} == {"float32"}


def test_the_model_is_made_under_the_strategy(tmp_path):
    strategies = []

    def make() -> Line:
        strategies.append(tf.distribute.get_strategy())
        return make_model()

    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    model = train(tmp_path, make_model=make, strategy=strategy)
    assert strategies == [strategy]
    assert int(model.optimizer.iterations) == 8


def test_the_compiled_step_is_the_uncompiled_one(tmp_path):
    jitted = train(tmp_path / "jitted", dataclasses.replace(CONFIG, jit_compile=True))
    plain = train(tmp_path / "plain")
    assert (jitted.jit_compile, plain.jit_compile) == (True, False)
    np.testing.assert_allclose(weights(jitted), weights(plain), rtol=1e-4)


@pytest.mark.parametrize(("which", "taken"), [("last", 2.0), ("best", 1.0)])
def test_the_last_or_the_best_weights_are_taken(tmp_path, which, taken):
    trained, target = make_model(), make_model()
    for value, file in ((1.0, "best.weights.h5"), (2.0, "last.weights.h5")):
        trained.set_weights([np.full_like(weight, value) for weight in trained.get_weights()])
        trained.save_weights(tmp_path / file)
    trainer.take_weights(target, trained, tmp_path, which)
    assert weights(target) == [taken] * 4
