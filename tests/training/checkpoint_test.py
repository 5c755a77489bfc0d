import json

import keras
import numpy as np
import pytest

from parti_tf.training.checkpoint import BackupAndRestore, BestWeights


def make_model(width: int = 3, rate: float = 0.5) -> keras.Model:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(width), keras.layers.Dropout(rate)])
    model.compile("adam", "mse")
    return model


def save(folder, model: keras.Model, epochs: int = 1) -> BackupAndRestore:
    backup = BackupAndRestore(folder, seed=0)
    assert backup.restore(model) == 0
    model.fit(np.ones((4, 2)), np.zeros((4, 3)), batch_size=2, epochs=epochs, callbacks=[backup], verbose=0)
    return backup


def test_weights_step_and_slots_come_back(tmp_path):
    model, other = make_model(), make_model()
    save(tmp_path, model, epochs=3)
    assert BackupAndRestore(tmp_path, seed=0).restore(other) == 6  # 3 epochs of 2 steps
    pairs = zip(model.optimizer.variables + model.weights, other.optimizer.variables + other.weights, strict=True)
    for ours, theirs in pairs:
        np.testing.assert_array_equal(ours, theirs)


def test_the_last_two_checkpoints_are_kept(tmp_path):
    save(tmp_path, make_model(), epochs=3)
    assert sorted(path.name for path in tmp_path.glob("*.index")) == ["ckpt-2.index", "ckpt-3.index"]


def test_a_checkpoint_of_other_shapes_is_refused_by_name(tmp_path):
    save(tmp_path, make_model())
    with pytest.raises(ValueError, match=r"checkpoint .*ckpt-1 does not fit this model"):
        BackupAndRestore(tmp_path, seed=0).restore(make_model(width=4))


def test_fit_without_restore_is_refused(tmp_path):
    model = make_model()
    with pytest.raises(ValueError, match=r"BackupAndRestore.restore\(model\) must be called before fit"):
        model.fit(np.ones((4, 2)), np.zeros((4, 3)), callbacks=[BackupAndRestore(tmp_path, seed=0)], verbose=0)


def test_random_states_follow_from_the_seed_and_the_epoch(tmp_path):
    def state(seed: int, epoch: int) -> tuple[int, ...]:
        model = make_model()
        model(np.ones((4, 2)), training=True)  # advances the state
        backup = BackupAndRestore(tmp_path, seed)
        backup.set_model(model)
        backup.on_epoch_begin(epoch)
        return tuple(model.layers[-1].seed_generator.state.numpy().tolist())

    assert state(0, 5) == state(0, 5)
    assert len({state(0, 5), state(0, 6), state(1, 5)}) == 3


def end_epochs(folder, model: keras.Model, values: list[float]) -> BestWeights:
    best = BestWeights(folder, "val_loss", part=lambda model: model)
    best.set_model(model)
    for epoch, value in enumerate(values):
        model.layers[0].bias.assign(np.full(3, value))
        best.on_epoch_end(epoch, {"val_loss": value})
    return best


def best_bias(folder) -> float:
    model = make_model()
    model.load_weights(folder / "best.weights.h5")
    return float(model.layers[0].bias[0])


def test_the_weights_of_the_least_value_are_kept_across_a_restart(tmp_path):
    model = make_model()
    end_epochs(tmp_path, model, [3.0, 1.0, 2.0])
    assert best_bias(tmp_path) == 1.0
    assert json.loads((tmp_path / "best.json").read_text()) == {"epoch": 2, "val_loss": 1.0}
    end_epochs(tmp_path, model, [1.5])
    assert best_bias(tmp_path) == 1.0
    end_epochs(tmp_path, model, [0.5])
    assert best_bias(tmp_path) == 0.5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.json", "best.weights.h5"]


def test_a_metric_that_the_run_does_not_have_is_refused(tmp_path):
    best = BestWeights(tmp_path, "val_los", part=lambda model: model)
    with pytest.raises(ValueError, match=r"monitor is 'val_los'; this run's metrics are loss, val_loss"):
        best.on_epoch_end(0, {"loss": 1.0, "val_loss": 1.0})
