import dataclasses
import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from parti_tf.config import OptimizerConfig, TrainingConfig
from parti_tf.generation.image_tokens import ImageTokenSampler, SamplingRows
from parti_tf.models.encoder_decoder import EncoderDecoder
from parti_tf.pipeline import TextToImage
from parti_tf.preset_files import write_weights
from parti_tf.training import train_encoder_decoder
from parti_tf.training.optimizer import make_optimizer
from parti_tf.training.train_encoder_decoder import EncoderDecoderTraining
from tests import tiny
from tests.training import tiny_run

EMPTY = np.array([1] + [0] * 15, np.int32)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return tiny_run.write_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def image_tokenizer(tmp_path_factory) -> Path:
    """Gives a folder as a finished tokenizer run leaves it."""
    folder = tmp_path_factory.mktemp("image_tokenizer")
    write_image_tokenizer(folder, seed=0)
    return folder


def write_image_tokenizer(folder: Path, seed: int) -> None:
    write_weights(folder / "image_tokenizer.safetensors", tiny.tiny_image_tokenizer(seed))
    (folder / "config.json").write_text(json.dumps({"model": dataclasses.asdict(tiny.VIT_VQGAN)}))


def batch(count: int = 4) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        "text_ids": random.integers(3, 32, (count, 16)).astype(np.int32),
        "image_tokens": random.integers(0, 24, (count, 16)).astype(np.int32),
    }


def test_it_learns_one_batch_by_heart_and_draws_it_again():
    training = TrainingConfig(
        total_steps=150,
        steps_per_epoch=150,
        optimizer=OptimizerConfig(learning_rate=1e-2, final_rate=1e-4, warmup_steps=10, weight_decay=0.0, clip_norm=1),
    )
    config = dataclasses.replace(tiny.ENCODER_DECODER, model_dim=32, mlp_dim=64, dropout_rate=0.0)
    model = EncoderDecoderTraining(EncoderDecoder(config), EMPTY, caption_dropout=0.0)
    model.build()
    model.compile(make_optimizer(training, model.trainable_variables), jit_compile=False)
    inputs = batch()
    history = model.fit(tf.data.Dataset.from_tensors(inputs).repeat(), steps_per_epoch=150, shuffle=False, verbose=0)
    assert history.history["token_accuracy"][0] > 0.5  # over all the steps
    evaluated = model.evaluate(tf.data.Dataset.from_tensors(inputs), verbose=0, return_dict=True)
    assert evaluated["loss"] < 0.05
    assert evaluated["token_accuracy"] == 1.0
    sampler = ImageTokenSampler(model.transformer, EMPTY, guided=False)
    ones = tf.ones([4])
    greedy = SamplingRows(tf.zeros([4, 2], tf.int32), ones, ones, tf.ones([4], tf.int32), ones)
    np.testing.assert_array_equal(sampler.sample(tf.constant(inputs["text_ids"]), greedy), inputs["image_tokens"])


def test_the_loss_is_the_mean_cross_entropy_over_image_tokens():
    model = EncoderDecoderTraining(tiny.tiny_transformer(), EMPTY, caption_dropout=0.5)
    model.build()
    model.compile("sgd", jit_compile=False)
    inputs = batch()
    logits = np.array(model.transformer(inputs))
    shares = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    expected = -np.log(np.take_along_axis(shares, inputs["image_tokens"][..., None], axis=-1)).mean()
    assert model.test_on_batch(inputs, return_dict=True)["loss"] == pytest.approx(expected, rel=1e-4)


class CaptionsSeen(EncoderDecoder):
    """The Transformer, which also keeps the captions that it was given."""

    def call(self, inputs, training=False):
        self.seen = inputs["text_ids"]
        return super().call(inputs, training=training)


@pytest.mark.parametrize("rate", [0.0, 0.25])
def test_captions_are_dropped_at_the_rate_and_only_in_training(rate):
    transformer = CaptionsSeen(dataclasses.replace(tiny.ENCODER_DECODER, num_encoder_layers=1, num_decoder_layers=1))
    model = EncoderDecoderTraining(transformer, EMPTY, caption_dropout=rate)
    model.build()
    inputs = batch(2_000)
    model(inputs, training=False)
    np.testing.assert_array_equal(transformer.seen, inputs["text_ids"])
    model(inputs, training=True)
    dropped = (np.array(transformer.seen) == EMPTY).all(axis=1)
    # Five standard deviations of a share of 2000 draws: 5 * sqrt(0.25 * 0.75 / 2000).
    assert abs(dropped.mean() - rate) <= (0.049 if rate else 0.0)
    np.testing.assert_array_equal(np.array(transformer.seen)[~dropped], inputs["text_ids"][~dropped])


@pytest.fixture(scope="module")
def finished(data, image_tokenizer, tmp_path_factory) -> tuple[Path, TextToImage]:
    folder = tmp_path_factory.mktemp("run")
    return folder, train_encoder_decoder.run(tiny_run.transformer_options(data, folder, image_tokenizer))


def test_a_finished_run_is_a_preset_that_draws(finished):
    folder, system = finished
    loaded = TextToImage.from_preset(folder / "preset")
    images = loaded.generate("a red heart", seed=3)
    assert images.shape == (1, 1, 16, 16, 3)
    np.testing.assert_array_equal(images, system.generate("a red heart", seed=3))
    assert len(list((folder / "pictures").glob("*.png"))) == 2
    assert len(list(folder.glob("image_tokens-*/train-*-of-00002.tfrecord"))) == 2


def test_another_image_tokenizer_is_another_run_with_tokens_of_its_own(finished, data, tmp_path):
    folder, _ = finished
    write_image_tokenizer(tmp_path, seed=1)
    with pytest.raises(ValueError, match=r"\(image_tokens is 'image_tokens-.*' there, 'image_tokens-.*' here\)"):
        train_encoder_decoder.run(tiny_run.transformer_options(data, folder, tmp_path))
    assert len(list(folder.glob("image_tokens-*"))) == 2


def test_a_finished_run_writes_its_preset_again_with_other_options(finished, data, image_tokenizer, tmp_path):
    folder, system = finished
    options = tiny_run.transformer_options(
        data,
        folder,
        image_tokenizer,
        preset_out=str(tmp_path / "preset"),
        preset_dtype="float16",
        sampling=dataclasses.replace(system.config.sampling, guidance_scale=3.0),
    )
    train_encoder_decoder.run(options)
    small, large = tmp_path / "preset", folder / "preset"
    assert (small / "transformer.safetensors").stat().st_size < 0.7 * (large / "transformer.safetensors").stat().st_size
    assert TextToImage.from_preset(small).config.sampling.guidance_scale == 3.0


def test_captions_to_draw_come_from_every_split_unless_they_are_named(data, image_tokenizer, tmp_path):
    options = tiny_run.transformer_options(data, tmp_path, image_tokenizer)
    assert train_encoder_decoder.choose_captions(options, ["unseen", "unseen_too"]) == ("a red heart",)
    every = dataclasses.replace(options, sample_captions=())
    captions = train_encoder_decoder.choose_captions(every, ["unseen", "unseen_too"])
    assert captions == (*tiny.CAPTIONS[12:16:2], *tiny.CAPTIONS[:2], *tiny.CAPTIONS[9:11])


def test_the_pictures_are_of_the_weights_in_training(tmp_path):
    system, model = tiny.tiny_text_to_image(tmp_path), EncoderDecoderTraining(tiny.tiny_transformer(seed=5), EMPTY, 0.0)
    before = train_encoder_decoder.draw_captions(system, ["a red heart"] * 3, model)
    np.testing.assert_array_equal(train_encoder_decoder.draw_captions(system, ["a red heart"] * 3, model), before)
    tiny.randomise(model.transformer, seed=6)
    after = train_encoder_decoder.draw_captions(system, ["a red heart"] * 3, model)
    assert after.dtype == np.uint8
    assert (after != before).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codebook_size": 32}, "PartiConfig.transformer.codebook_size is 32, but its tokenizer gives 24"),
        ({"grid_size": 8}, "PartiConfig.transformer.grid_size is 8, but its tokenizer gives 4"),
        ({"text_vocab_size": 16}, "the text tokenizer has 32 pieces, the config allows 16"),
    ],
)
def test_parts_that_do_not_fit_are_refused_before_anything_is_written(
    data, image_tokenizer, tmp_path, changes, message
):
    model = dataclasses.replace(tiny.ENCODER_DECODER, **changes)
    with pytest.raises(ValueError, match=message):
        train_encoder_decoder.run(tiny_run.transformer_options(data, tmp_path / "run", image_tokenizer, model=model))
    assert not (tmp_path / "run").exists()


def test_mixed_precision_keeps_float32_weights():
    model = EncoderDecoderTraining(EncoderDecoder(tiny.ENCODER_DECODER, dtype="mixed_bfloat16"), EMPTY, 0.1)
    model.build()
    assert model.transformer.encode(keras.ops.convert_to_tensor(batch()["text_ids"])).dtype == tf.bfloat16
    assert {weight.dtype for weight in model.weights} == {"float32"}
    assert model(batch()).dtype == tf.float32


def test_a_run_can_start_from_the_weights_of_a_preset(data, image_tokenizer, tmp_path, text_to_image):
    text_to_image.save_to_preset(tmp_path / "preset")
    still = dataclasses.replace(
        tiny_run.TRAINING,
        total_steps=1,
        steps_per_epoch=1,
        optimizer=OptimizerConfig(learning_rate=1e-9, final_rate=0.0, warmup_steps=0, weight_decay=0.0),
    )
    options = tiny_run.transformer_options(
        data,
        tmp_path / "run",
        image_tokenizer,
        start_from=str(tmp_path / "preset"),
        training=still,
        model=tiny.ENCODER_DECODER,
    )
    system = train_encoder_decoder.run(options)
    for ours, theirs in zip(system.transformer.weights, text_to_image.transformer.weights, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_a_preset_of_another_size_is_no_start(data, image_tokenizer, tmp_path, text_to_image):
    text_to_image.save_to_preset(tmp_path / "preset")
    options = tiny_run.transformer_options(data, tmp_path / "run", image_tokenizer, start_from=str(tmp_path / "preset"))
    with pytest.raises(ValueError, match="transformer.safetensors does not fit its config"):
        train_encoder_decoder.run(options)
