"""The optimizers and learning-rate schedules of the papers (Parti 3; ViT-VQGAN 5.1)."""

from collections.abc import Iterable

import keras

from parti_tf.config import TrainingConfig

DECAYED = ("kernel", "embeddings")  # Ours: names of weights; biases, gains, positions and the codebook are left alone


def learning_rate_schedule(config: TrainingConfig) -> keras.optimizers.schedules.LearningRateSchedule:
    """Gives linear warm-up from 0, then cosine decay to the final rate at `total_steps` (ViT-VQGAN 5.1).

    Raises:
      ValueError: the warm-up does not end before the run does.
    """
    optimizer = config.optimizer
    if optimizer.warmup_steps >= config.total_steps:
        raise ValueError(
            f"optimizer.warmup_steps is {optimizer.warmup_steps}; it must be under total_steps {config.total_steps}"
        )
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if optimizer.warmup_steps else optimizer.learning_rate,
        decay_steps=config.total_steps - optimizer.warmup_steps,
        alpha=optimizer.final_rate / optimizer.learning_rate,
        warmup_target=optimizer.learning_rate if optimizer.warmup_steps else None,
        warmup_steps=optimizer.warmup_steps,
    )


def make_optimizer(config: TrainingConfig, variables: Iterable[keras.Variable]) -> keras.optimizers.Optimizer:
    """Gives AdamW on the run's schedule; kernels and embeddings decay, gradients are clipped by global norm.

    Args:
      config: the run's.
      variables: what will be trained.

    Raises:
      ValueError: the warm-up does not end before the run does.
    """
    optimizer = keras.optimizers.AdamW(
        learning_rate=learning_rate_schedule(config),
        beta_1=config.optimizer.beta_1,
        beta_2=config.optimizer.beta_2,
        weight_decay=config.optimizer.weight_decay,
        global_clipnorm=config.optimizer.clip_norm or None,
        name="optimizer",
    )
    # As variables: the names that Keras would match are TensorFlow's, whole paths that change with the scope.
    optimizer.exclude_from_weight_decay([variable for variable in variables if variable.name not in DECAYED])
    return optimizer
