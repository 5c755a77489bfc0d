import dataclasses
import json

import pytest

from parti_tf import config
from parti_tf.config import (
    EMOJI_64,
    PARTI_3B,
    PARTI_20B,
    PARTI_350M,
    PARTI_750M,
    VIT_VQGAN_BASE,
    VIT_VQGAN_LARGE,
    VIT_VQGAN_SMALL,
    EncoderDecoderConfig,
    OptimizerConfig,
    PartiConfig,
    ReconstructionLossConfig,
    SamplingConfig,
    SamplingOverrides,
    TextTokenizerConfig,
    TrainingConfig,
    VitConfig,
    VitVqganConfig,
)
from tests import tiny


def test_a_system_survives_json():
    mixed = dataclasses.replace(EMOJI_64.transformer, full_attention_layers=(0, 1))
    system = dataclasses.replace(EMOJI_64, transformer=mixed, sampling=SamplingConfig(top_k=9))
    assert config.load_parti_config(json.dumps(config.to_dict(system))) == system


def test_fields_left_out_take_their_defaults():
    assert config.from_dict(TextTokenizerConfig, {"vocab_size": 100}) == TextTokenizerConfig(100, 128)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "config is no valid JSON: "),
        ("[1]", "config is no JSON object"),
        ("{}", "PartiConfig: .* missing 3 required positional arguments"),
        ('{"image": {}}', "PartiConfig has no field image; it has image_tokenizer, .*text_tokenizer, transformer"),
        ('{"text_tokenizer": {"vocab": 3}}', "TextTokenizerConfig has no field vocab; it has max_length, vocab_size"),
        ('{"text_tokenizer": {"vocab_size": "many"}}', "TextTokenizerConfig: .*str"),
        ('{"text_tokenizer": 3}', "text_tokenizer is 3; it must be the fields of a TextTokenizerConfig"),
    ],
)
def test_bad_json_is_refused_in_one_line(text, message):
    with pytest.raises(ValueError, match=message) as error:
        config.load_parti_config(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("base", "changes", "message"),
    [
        (TextTokenizerConfig(), {"vocab_size": 0}, "TextTokenizerConfig.vocab_size is 0; it must be positive"),
        (TextTokenizerConfig(), {"max_length": 1}, "TextTokenizerConfig.max_length is 1; it must be at least 2"),
        (tiny.VIT, {"num_layers": 0}, "VitConfig.num_layers is 0; it must be positive"),
        (tiny.VIT, {"head_dim": -8}, "VitConfig.head_dim is -8; it must be positive"),
        (tiny.VIT, {"dropout_rate": 1.0}, r"VitConfig.dropout_rate is 1.0; it must be in \[0, 1\)"),
        (tiny.VIT_VQGAN, {"image_size": 30}, "image_size 30 does not divide by patch_size 4"),
        (tiny.VIT_VQGAN, {"codebook_dim": 0}, "VitVqganConfig.codebook_dim is 0; it must be positive"),
        (tiny.ENCODER_DECODER, {"num_heads": 3}, "model_dim 16 does not divide by num_heads 3"),
        (tiny.ENCODER_DECODER, {"conv_window": 4}, "EncoderDecoderConfig.conv_window is 4; it must be odd"),
        (tiny.ENCODER_DECODER, {"dropout_rate": -0.1}, "EncoderDecoderConfig.dropout_rate is -0.1"),
        (tiny.ENCODER_DECODER, {"text_length": 0}, "EncoderDecoderConfig.text_length is 0; it must be positive"),
        (
            tiny.ENCODER_DECODER,
            {"full_attention_layers": (0, 2, -1)},
            r"full_attention_layers names \[2, -1\]; decoder layers are 0 to 1",
        ),
        (SamplingConfig(), {"guidance_scale": -0.5}, "guidance_scale is -0.5; it must be at least 0"),
        (SamplingConfig(), {"guidance_scale": float("nan")}, "guidance_scale is nan; it must be at least 0"),
        (SamplingConfig(), {"guidance_scale": float("inf")}, "guidance_scale is inf; it must be at least 0 and finite"),
        (SamplingConfig(), {"temperature": 0.0}, "temperature is 0.0; it must be above 0"),
        (SamplingConfig(), {"temperature": float("inf")}, "temperature is inf; it must be above 0 and finite"),
        (SamplingConfig(), {"top_k": -1}, r"top_k is -1; it must be at least 0 \(0 keeps every code\)"),
        (SamplingConfig(), {"top_p": 0.0}, r"top_p is 0.0; it must be in \(0, 1\]"),
        (SamplingConfig(), {"top_p": 1.01}, r"top_p is 1.01; it must be in \(0, 1\]"),
        (ReconstructionLossConfig(), {"l2": -1.0}, "ReconstructionLossConfig.l2 is -1.0; it must be at least 0"),
        (OptimizerConfig(), {"learning_rate": 0.0}, "OptimizerConfig.learning_rate is 0.0; it must be positive"),
        (OptimizerConfig(), {"final_rate": 1.0}, r"final_rate is 1.0; it must be in \[0, learning_rate 0.0001\]"),
        (OptimizerConfig(), {"beta_2": 1.0}, r"OptimizerConfig.beta_2 is 1.0; it must be in \[0, 1\)"),
        (OptimizerConfig(), {"clip_norm": -4.0}, "OptimizerConfig.clip_norm is -4.0; it must be at least 0"),
        (TrainingConfig(), {"batch_size": 0}, "TrainingConfig.batch_size is 0; it must be positive"),
        (TrainingConfig(), {"steps_per_epoch": 300}, "total_steps 500000 does not divide by steps_per_epoch 300"),
        (TrainingConfig(), {"caption_dropout": 1.0}, r"caption_dropout is 1.0; it must be in \[0, 1\)"),
        (
            TrainingConfig(),
            {"mixed_precision": "float16"},
            "mixed_precision is 'float16'; it must be one of float32, mixed_bfloat16",
        ),
    ],
)
def test_bad_values_are_refused_by_name_and_value(base, changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(base, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_vocab_size": 33}, "PartiConfig.transformer.text_vocab_size is 33, but its tokenizer gives 32"),
        ({"text_length": 8}, "PartiConfig.transformer.text_length is 8, but its tokenizer gives 16"),
        ({"codebook_size": 25}, "PartiConfig.transformer.codebook_size is 25, but its tokenizer gives 24"),
        ({"grid_size": 5}, "PartiConfig.transformer.grid_size is 5, but its tokenizer gives 4"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(tiny.PARTI, transformer=dataclasses.replace(tiny.ENCODER_DECODER, **changes))


def test_what_is_asked_of_the_sampling_goes_over_the_presets_own():
    own = SamplingConfig(guidance_scale=3.0, temperature=0.9, top_k=7, top_p=0.8)
    assert SamplingOverrides().over(own) == own
    asked = SamplingOverrides(guidance_scale=0.0, top_k=0)  # 0 is asked for, too
    assert asked.over(own) == SamplingConfig(guidance_scale=0.0, temperature=0.9, top_k=0, top_p=0.8)
    asked = SamplingOverrides(temperature=2.0, top_p=1.0)
    assert asked.over(own) == SamplingConfig(guidance_scale=3.0, temperature=2.0, top_k=7, top_p=1.0)
    with pytest.raises(ValueError, match="top_p is 0; it must be in"):
        SamplingOverrides(top_p=0).over(own)


def test_a_presets_sampling_must_fit_its_codebook():
    with pytest.raises(ValueError, match="PartiConfig.sampling.top_k is 25; the codebook has 24 codes"):
        dataclasses.replace(tiny.PARTI, sampling=SamplingConfig(top_k=25))


def test_configs_are_never_edited():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PARTI_350M.num_decoder_layers = 4  # type: ignore[misc]


def test_published_sizes():
    # Table 1: heads of 64 at every size, an MLP of 4 times the width, 32 x 32 tokens of 8192 codes.
    for size in (PARTI_350M, PARTI_750M, PARTI_3B, PARTI_20B):
        assert size.head_dim == 64
        assert size.mlp_dim == 4 * size.model_dim
        assert (size.num_tokens, size.codebook_size, size.text_vocab_size, size.text_length) == (
            1024,
            8192,
            16_000,
            128,
        )
    # 256 pixels in patches of 8 are 32 x 32 tokens.
    for tokenizer in (VIT_VQGAN_SMALL, VIT_VQGAN_BASE, VIT_VQGAN_LARGE):
        assert (tokenizer.grid_size, tokenizer.num_tokens) == (32, 1024)
        assert (tokenizer.codebook_size, tokenizer.codebook_dim) == (8192, 32)
    # The pieces fit together into one system.
    PartiConfig(TextTokenizerConfig(), VIT_VQGAN_SMALL, PARTI_350M)


def test_one_side_of_a_tokenizer_may_be_larger():
    small = VitConfig(num_layers=1, model_dim=8, mlp_dim=16, num_heads=1)
    large = VitConfig(num_layers=3, model_dim=32, mlp_dim=64, num_heads=2)
    assert VitVqganConfig(small, large).decoder.model_dim == 32
    assert EncoderDecoderConfig(1, 1, 8, 16, 2).head_dim == 4
