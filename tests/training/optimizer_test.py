import dataclasses
import math

import keras
import numpy as np
import pytest

from parti_tf.config import OptimizerConfig, TrainingConfig
from parti_tf.training.optimizer import learning_rate_schedule, make_optimizer
from tests import tiny

OPTIMIZER = OptimizerConfig(learning_rate=1.0, final_rate=0.2, warmup_steps=10, weight_decay=0.0, clip_norm=0.0)


def config(**changes) -> TrainingConfig:
    return TrainingConfig(total_steps=110, steps_per_epoch=10, optimizer=dataclasses.replace(OPTIMIZER, **changes))


def test_the_rate_warms_up_linearly_and_falls_along_a_cosine_to_the_final_rate():
    rate = learning_rate_schedule(config())
    # 10 steps up, then 100 steps of 0.2 + 0.8 * (1 + cos(pi * t / 100)) / 2.
    expected = {0: 0.0, 1: 0.1, 5: 0.5, 10: 1.0, 35: 0.2 + 0.4 * (1 + math.sqrt(0.5)), 60: 0.6, 110: 0.2}
    for step, value in expected.items():
        assert float(rate(step)) == pytest.approx(value, rel=1e-5), step


def test_without_warm_up_the_rate_starts_at_its_highest():
    rate = learning_rate_schedule(config(warmup_steps=0))
    assert float(rate(0)) == pytest.approx(1.0)
    assert float(rate(55)) == pytest.approx(0.6)  # half of 110 steps: 0.2 + 0.8 / 2


def test_a_warm_up_as_long_as_the_run_is_refused():
    with pytest.raises(ValueError, match=r"warmup_steps is 110; it must be under total_steps 110"):
        learning_rate_schedule(config(warmup_steps=110))


@pytest.mark.parametrize("make_model", [tiny.tiny_transformer, tiny.tiny_image_tokenizer])
def test_only_kernels_and_embeddings_decay(make_model):
    model = make_model(qk_norm=True) if make_model is tiny.tiny_transformer else make_model()
    before = [weight.numpy() for weight in model.trainable_variables]
    optimizer = make_optimizer(config(weight_decay=0.1, warmup_steps=0), model.trainable_variables)
    optimizer.apply([keras.ops.zeros(weight.shape) for weight in model.trainable_variables], model.trainable_variables)
    factors: dict[str, set[float]] = {}
    for weight, old in zip(model.trainable_variables, before, strict=True):
        factor = float(np.median(weight.numpy() / old))
        factors.setdefault(weight.name, set()).add(round(factor, 4))
    decayed = {name for name, factor in factors.items() if factor == {0.9}}  # 1 - rate 1.0 * decay 0.1
    assert decayed == {"kernel", "embeddings"} & set(factors)
    assert {name for name, factor in factors.items() if factor == {1.0}} == set(factors) - decayed
    assert {"bias", "gamma", "beta", "row", "column"} < set(factors) - decayed


def test_gradients_are_clipped_by_the_norm_of_all_of_them_together():
    def first_moments(clip_norm: float) -> list[float]:
        weights = [keras.Variable([0.0]), keras.Variable([0.0])]
        optimizer = make_optimizer(config(clip_norm=clip_norm, beta_1=0.5), weights)
        optimizer.apply([keras.ops.convert_to_tensor([30.0]), keras.ops.convert_to_tensor([40.0])], weights)
        return [float(moment[0]) for moment in optimizer._momentums]

    # Norm 50; AdamW's first moment is (1 - beta_1) times the gradient it was given.
    assert first_moments(0.0) == pytest.approx([15.0, 20.0])
    assert first_moments(5.0) == pytest.approx([1.5, 2.0])
    assert first_moments(60.0) == pytest.approx([15.0, 20.0])


def test_betas_and_rate_change_the_step():
    def step(**changes) -> float:
        weight = keras.Variable([1.0])
        optimizer = make_optimizer(config(warmup_steps=0, **changes), [weight])
        for gradient in (1.0, -0.5):
            optimizer.apply([keras.ops.convert_to_tensor([gradient])], [weight])
        return float(weight[0])

    results = [step(), step(beta_1=0.5), step(beta_2=0.5), step(learning_rate=0.5), step(final_rate=0.9)]
    assert len({round(result, 6) for result in results}) == 5
