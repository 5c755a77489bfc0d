import numpy as np
import pytest
import tensorflow as tf

from parti_tf.generation.image_tokens import ImageTokenSampler, SamplingRows
from parti_tf.generation.sampling import uniform_draws
from tests.tiny import tiny_transformer

EMPTY = np.array([1] + [0] * 15, "int32")
TEXT_IDS = np.array(
    [[9, 5, 7, 1] + [0] * 12, [4, 31, 6, 8, 8, 3, 12, 11, 10, 5, 5, 9, 30, 2, 7, 1], [9, 5, 7, 1] + [0] * 12], "int32"
)


def rows_of(seeds, guidance_scale=2.0, temperature=1.0, top_k=0, top_p=1.0) -> SamplingRows:
    count = len(seeds)
    return SamplingRows(
        tf.constant(seeds, tf.int32),
        tf.fill([count], guidance_scale),
        tf.fill([count], temperature),
        tf.fill([count], top_k),
        tf.fill([count], top_p),
    )


SEEDS = [[3, 0], [3, 1], [4, 0]]


@pytest.fixture(scope="module")
def model():
    """One decoder layer of each kind."""
    return tiny_transformer(full_attention_layers=(1,), qk_norm=True)


@pytest.fixture(scope="module")
def sampler(model):
    return ImageTokenSampler(model, EMPTY)


@pytest.fixture(scope="module")
def sample(sampler):
    compiled = tf.function(sampler.sample, reduce_retracing=True)
    return lambda text_ids, rows: compiled(tf.constant(text_ids), rows).numpy()


@pytest.fixture(scope="module")
def tokens(sample) -> np.ndarray:
    return sample(TEXT_IDS, rows_of(SEEDS))


def test_tokens_are_codes_of_every_cell(tokens):
    assert tokens.shape == (3, 16)
    assert tokens.dtype == np.int32
    assert tokens.min() >= 0
    assert tokens.max() < 24
    assert len(np.unique(tokens)) > 4


def test_same_seed_same_tokens_other_seed_others(sample, tokens):
    np.testing.assert_array_equal(sample(TEXT_IDS, rows_of(SEEDS)), tokens)
    others = sample(TEXT_IDS, rows_of([[3, 0], [3, 2], [5, 0]]))
    assert (others != tokens).any(axis=1).tolist() == [False, True, True]
    assert (tokens[0] != tokens[2]).any()  # one caption, two seeds


def test_a_row_does_not_depend_on_its_batch_mates(sample, tokens):
    mates = sample(np.stack([TEXT_IDS[1], TEXT_IDS[0], TEXT_IDS[1]]), rows_of([[9, 9], [3, 0], [3, 1]]))
    np.testing.assert_array_equal(mates[1], tokens[0])
    np.testing.assert_array_equal(mates[2], tokens[1])
    np.testing.assert_array_equal(sample(TEXT_IDS[:1], rows_of(SEEDS[:1])), tokens[:1])


def test_rows_are_drawn_each_in_its_own_way(sample, tokens):
    mixed = SamplingRows(
        tf.constant(SEEDS),
        tf.constant([2.0, 0.5, 2.0]),
        tf.constant([1.0, 1.0, 3.0]),
        tf.constant([0, 0, 2]),
        tf.constant([1.0, 0.5, 1.0]),
    )
    together = sample(TEXT_IDS, mixed)
    np.testing.assert_array_equal(together[0], tokens[0])
    np.testing.assert_array_equal(together[1], sample(TEXT_IDS, rows_of(SEEDS, 0.5, top_p=0.5))[1])
    np.testing.assert_array_equal(together[2], sample(TEXT_IDS, rows_of(SEEDS, temperature=3.0, top_k=2))[2])


@pytest.mark.parametrize(
    "options", [{"guidance_scale": 0.0}, {"guidance_scale": 5.0}, {"temperature": 4.0}, {"top_k": 1}, {"top_p": 0.3}]
)
def test_each_option_changes_tokens(sample, tokens, options):
    assert (sample(TEXT_IDS, rows_of(SEEDS, **options)) != tokens).any(axis=1).all()


def test_top_k_of_1_needs_no_seed(sample):
    first, second = (sample(TEXT_IDS, rows_of([[seed, row] for row in range(3)], top_k=1)) for seed in (0, 1))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first[0], first[2])  # one caption
    assert (first[0] != first[1]).any()


def test_a_scale_of_1_is_sampling_without_guidance_and_0_without_the_caption(model, sample):
    plain = ImageTokenSampler(model, EMPTY, guided=False)
    assert plain.start(tf.constant(TEXT_IDS)).cache.self_attention[0].keys.shape[0] == 3 * 2  # half the rows
    unguided = tf.function(plain.sample)(tf.constant(TEXT_IDS), rows_of(SEEDS))
    np.testing.assert_array_equal(sample(TEXT_IDS, rows_of(SEEDS, guidance_scale=1.0)), unguided)
    without = sample(np.tile(EMPTY, [3, 1]), rows_of(SEEDS, guidance_scale=7.0))
    np.testing.assert_array_equal(sample(TEXT_IDS, rows_of(SEEDS, guidance_scale=0.0)), without)


def test_some_at_a_time_is_all_at_once(sampler, tokens):
    state, rows = sampler.start(tf.constant(TEXT_IDS)), rows_of(SEEDS)
    for steps in (1, 5, 10):
        state = sampler.advance(state, rows, steps)
        drawn = int(state.position)
        np.testing.assert_array_equal(state.tokens[:drawn], tokens.T[:drawn])
        assert not state.tokens[drawn:].numpy().any()
    assert drawn == 16


def test_every_token_is_drawn_from_the_logits_of_a_full_pass(model, tokens):
    # Guided by the full pass over what was drawn, each token is the one that its number points at.
    def logits(text_ids):
        return np.asarray(model({"text_ids": text_ids, "image_tokens": tokens}), "float64")

    conditional, unconditional = logits(TEXT_IDS), logits(np.tile(EMPTY, [3, 1]))
    guided = unconditional + 2.0 * (conditional - unconditional)
    weights = np.exp(guided - guided.max(-1, keepdims=True))
    reached = (weights / weights.sum(-1, keepdims=True)).cumsum(-1)
    uniform = uniform_draws(tf.constant(SEEDS), 16).numpy().T
    np.testing.assert_array_equal((reached < uniform[..., None]).sum(-1), tokens)


@pytest.fixture(scope="module")
def compiled_by_xla(model):
    return tf.function(ImageTokenSampler(model, EMPTY, jit_compile=True).sample, jit_compile=True)


def test_compiled_by_xla_it_draws_the_same_tokens(compiled_by_xla, sample, tokens):
    np.testing.assert_array_equal(compiled_by_xla(tf.constant(TEXT_IDS), rows_of(SEEDS)), tokens)
    rows = rows_of(SEEDS, 5.0, 0.5, 3, 0.9)
    np.testing.assert_array_equal(compiled_by_xla(tf.constant(TEXT_IDS), rows), sample(TEXT_IDS, rows))


def test_weights_that_change_after_compilation_are_seen(model, compiled_by_xla, sample, tokens):
    kernels = [block.mlp_in.kernel for block in model.decoder_blocks]
    before = [kernel.numpy() for kernel in kernels]
    for kernel in kernels:
        kernel.assign(-kernel)
    changed = compiled_by_xla(tf.constant(TEXT_IDS), rows_of(SEEDS)).numpy()
    np.testing.assert_array_equal(changed, sample(TEXT_IDS, rows_of(SEEDS)))
    for kernel, values in zip(kernels, before, strict=True):
        kernel.assign(values)
    assert (changed != tokens).any()
