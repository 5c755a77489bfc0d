import numpy as np
import pytest
import tensorflow as tf

from parti_tf.generation.sampling import FILTERED, draw_tokens, filter_logits, uniform_draws


def random_logits(*shape: int, seed: int = 0, scale: float = 2.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=scale, size=shape).astype("float32")


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits.astype("float64") - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def count_draws(logits: np.ndarray, num_draws: int = 20_000) -> np.ndarray:
    """Gives how often each code of `[K]` is drawn by numbers spread evenly over (0, 1)."""
    uniform = ((np.arange(num_draws) + 0.5) / num_draws).astype("float32")
    tokens = draw_tokens(tf.tile(logits[None], [num_draws, 1]), tf.constant(uniform))
    assert tokens.dtype == tf.int32
    return np.bincount(tokens, minlength=len(logits))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 24, 100, 129])
def test_codes_are_drawn_in_proportion(size):
    logits = random_logits(size, seed=size)
    # Evenly spread numbers fall into an interval of width p n p times, give or take the one at either end.
    assert np.abs(count_draws(logits) - 20_000 * softmax(logits)).max() < 1.01


def test_a_whole_codebook_is_drawn_in_proportion():
    logits = random_logits(8192)
    shares = softmax(logits)
    uniform = np.linspace(0.0005, 0.9995, 500, dtype="float32")
    expected = np.searchsorted(shares.cumsum(), uniform)
    tokens = draw_tokens(tf.tile(logits[None], [500, 1]), tf.constant(uniform))
    np.testing.assert_array_equal(tokens, expected)


def test_a_code_without_weight_is_never_drawn():
    logits = np.full(24, FILTERED, "float32")
    logits[[3, 8, 20]] = [0.0, 1.0, 0.5]
    uniform = np.array([0.0, 2.0**-24, 0.3, 0.7, 1 - 2.0**-24, 1.0], "float32")  # the ends of the range too
    tokens = np.asarray(draw_tokens(tf.tile(logits[None], [6, 1]), tf.constant(uniform)))
    assert tokens[[0, 1]].tolist() == [3, 3]
    assert tokens[[4, 5]].tolist() == [20, 20]
    assert set(np.flatnonzero(count_draws(logits))) == {3, 8, 20}
    assert np.flatnonzero(count_draws(np.where(np.arange(24) == 23, 0.0, FILTERED).astype("float32"))).tolist() == [23]
    assert np.flatnonzero(count_draws(np.where(np.arange(24) == 0, 0.0, FILTERED).astype("float32"))).tolist() == [0]


def test_each_row_is_drawn_from_its_own_logits_by_its_own_number():
    logits, uniform = random_logits(7, 24), np.linspace(0.05, 0.95, 7, dtype="float32")
    together = draw_tokens(tf.constant(logits), tf.constant(uniform))
    alone = [int(draw_tokens(tf.constant(logits[i : i + 1]), tf.constant(uniform[i : i + 1]))[0]) for i in range(7)]
    assert together.numpy().tolist() == alone


def test_large_logits_do_not_overflow():
    assert np.flatnonzero(count_draws(np.array([1e8, -1e8, 1e8], "float32"))).tolist() == [0, 2]


def reference_filter(logits: np.ndarray, top_k: int, top_p: float) -> np.ndarray:
    """Top-k, then top-p of what it leaves, by sorting; ties with the last one kept are kept."""
    kept = np.ones(len(logits), bool)
    if top_k:
        kept = logits >= np.sort(logits)[::-1][min(top_k, len(logits)) - 1]
    if top_p < 1:
        shares = softmax(np.where(kept, logits, -np.inf))
        order = np.argsort(-logits, kind="stable")
        last = np.flatnonzero(np.cumsum(shares[order]) >= top_p)[0]
        kept &= logits >= logits[order[last]]
    return np.where(kept, logits, np.float32(FILTERED))


ROWS = [(0, 1.0), (1, 1.0), (5, 1.0), (24, 1.0), (10**6, 1.0), (0, 0.5), (0, 1e-6), (0, 0.999), (7, 0.31), (3, 0.9)]


@pytest.mark.parametrize("kind", ["distinct", "ties", "all equal", "wide"])
def test_filter_is_top_k_then_top_p(kind):
    logits = random_logits(len(ROWS), 24, scale=50.0 if kind == "wide" else 2.0)
    if kind == "ties":
        logits = np.round(logits)
    if kind == "all equal":
        logits[:] = -1.5
    top_k, top_p = (np.array(column) for column in zip(*ROWS, strict=True))
    filtered = filter_logits(tf.constant(logits), tf.constant(top_k, tf.int32), tf.constant(top_p, tf.float32))
    expected = np.stack([reference_filter(row, *options) for row, options in zip(logits, ROWS, strict=True)])
    np.testing.assert_array_equal(filtered, expected)


def test_filter_keeps_what_it_should_of_a_codebook():
    logits = tf.constant(random_logits(1, 8192))
    for top_k in (1, 100, 8191, 8192):
        kept = filter_logits(logits, tf.constant([top_k]), tf.constant([1.0])) > FILTERED
        assert int(tf.reduce_sum(tf.cast(kept, tf.int32))) == top_k
    best = filter_logits(logits, tf.constant([1]), tf.constant([1.0]))
    assert int(draw_tokens(best, tf.constant([0.999]))[0]) == int(tf.argmax(logits[0]))


def test_filter_is_the_same_compiled_by_xla():
    logits = tf.constant(random_logits(len(ROWS), 24))
    top_k, top_p = (np.array(column) for column in zip(*ROWS, strict=True))
    arguments = logits, tf.constant(top_k, tf.int32), tf.constant(top_p, tf.float32)
    np.testing.assert_array_equal(tf.function(filter_logits, jit_compile=True)(*arguments), filter_logits(*arguments))


def test_filtered_codes_are_never_drawn():
    logits = random_logits(24)
    filtered = filter_logits(tf.constant(logits[None]), tf.constant([5]), tf.constant([1.0]))[0]
    assert sorted(np.flatnonzero(count_draws(filtered.numpy()))) == sorted(np.argsort(-logits)[:5])


SEEDS = tf.constant([[7, 0], [7, 1], [-8, 0], [2**31 - 1, 3]], tf.int32)


def test_numbers_lie_in_the_open_interval_and_fill_it():
    uniform = uniform_draws(SEEDS, 4096).numpy()
    assert uniform.shape == (4096, 4)
    assert uniform.dtype == np.float32
    # Each is the middle of one of 2**23 equal parts: an odd multiple of 2**-24, never 0 or 1.
    assert (uniform.astype("float64") * 2**24 % 2 == 1).all()
    # 1024 a quarter, with a standard deviation of sqrt(4096 * 3 / 16) = 28.
    for row in uniform.T:
        assert np.abs(np.histogram(row, 4, (0, 1))[0] - 1024).max() < 5 * 28


def test_numbers_of_a_row_depend_on_its_seed_alone():
    together = uniform_draws(SEEDS, 16).numpy()
    for row in range(4):
        np.testing.assert_array_equal(uniform_draws(SEEDS[row : row + 1], 16)[:, 0], together[:, row])
    assert len(np.unique(together)) == together.size  # no two seeds share their numbers


def test_numbers_are_the_same_eager_compiled_and_compiled_by_xla():
    eager = uniform_draws(SEEDS, 1024)
    for jit_compile in (False, True):
        compiled = tf.function(lambda seeds: uniform_draws(seeds, 1024), jit_compile=jit_compile)(SEEDS)
        np.testing.assert_array_equal(compiled, eager)
