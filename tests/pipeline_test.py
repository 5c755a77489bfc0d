import dataclasses
import warnings
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from parti_tf.config import SamplingConfig
from parti_tf.data.text_tokenizer import train_text_tokenizer
from parti_tf.pipeline import TextToImage
from tests import tiny

PROMPT, OTHER = "a red heart", "a blue house"


def differ(pictures: np.ndarray, others: np.ndarray) -> bool:
    """Whether pictures `[..., H, W, 3]` are drawn from different tokens; rounding moves a pixel by 1 at most."""
    return np.abs(pictures.astype(int) - others.astype(int)).max() > 1


def assert_same(pictures: np.ndarray, others: np.ndarray) -> None:
    assert pictures.shape == others.shape
    assert not differ(pictures, others)


@pytest.fixture(scope="module")
def pictures(text_to_image) -> np.ndarray:
    """Three samples of each of two prompts."""
    return text_to_image.generate([PROMPT, OTHER], num_samples=3, seed=7)


@pytest.fixture(scope="module")
def preset(text_to_image, tmp_path_factory):
    folder = tmp_path_factory.mktemp("presets") / "new" / "tiny"
    text_to_image.save_to_preset(folder)
    return folder


def test_pictures_of_every_prompt_and_sample(pictures):
    assert pictures.shape == (2, 3, 16, 16, 3)
    assert pictures.dtype == np.uint8
    assert len({picture.tobytes() for picture in pictures.reshape(6, -1)}) == 6


def test_a_string_is_a_list_of_one(text_to_image, pictures):
    assert_same(text_to_image.generate(PROMPT, num_samples=3, seed=7), pictures[:1])
    assert_same(text_to_image.generate((PROMPT,), num_samples=3, seed=7), pictures[:1])


def test_a_picture_depends_on_its_prompt_the_seed_and_its_number_alone(text_to_image, pictures):
    assert_same(text_to_image.generate(PROMPT, seed=7), pictures[:1, :1])
    assert_same(text_to_image.generate(["a green tree", OTHER], num_samples=2, seed=7)[1], pictures[1, :2])
    for batch_size in (1, 4):
        assert_same(text_to_image.generate([PROMPT, OTHER], num_samples=3, seed=7, batch_size=batch_size), pictures)


def test_seeds(text_to_image, pictures):
    assert_same(text_to_image.generate([PROMPT, OTHER], num_samples=3, seed=7), pictures)
    for seed in (8, -7, 2**40 + 8):
        others = text_to_image.generate([PROMPT, OTHER], num_samples=3, seed=seed)
        assert all(differ(*pair) for pair in zip(others.reshape(6, -1), pictures.reshape(6, -1), strict=True))
    for same in (7 + 2**32, 7 - 2**32, np.int64(7)):
        assert_same(text_to_image.generate(PROMPT, seed=same), pictures[:1, :1])
    fresh = [text_to_image.generate(PROMPT, num_samples=3) for _ in range(2)]
    assert differ(*fresh)


@pytest.mark.parametrize(
    "option", [{"guidance_scale": 0.0}, {"guidance_scale": 6.0}, {"temperature": 5.0}, {"top_k": 1}, {"top_p": 0.2}]
)
def test_each_option_changes_the_pictures(text_to_image, pictures, option):
    changed = text_to_image.generate([PROMPT, OTHER], num_samples=3, seed=7, **option)
    assert all(differ(*pair) for pair in zip(changed.reshape(6, -1), pictures.reshape(6, -1), strict=True))


def test_top_k_of_1_makes_all_samples_one(text_to_image):
    first, second = text_to_image.generate(PROMPT, num_samples=2, top_k=1)[0]
    assert_same(first, second)


def test_without_guidance_is_guidance_of_1(text_to_image):
    almost = text_to_image.generate([PROMPT, OTHER], num_samples=3, seed=7, guidance_scale=1.0 + 1e-6)
    assert_same(text_to_image.generate([PROMPT, OTHER], num_samples=3, seed=7, guidance_scale=1.0), almost)


def test_the_presets_own_sampling_is_taken_where_none_is_asked_for(text_to_image, pictures):
    sampling = SamplingConfig(guidance_scale=4.0, temperature=0.7, top_k=5, top_p=0.9)
    config = dataclasses.replace(tiny.PARTI, sampling=sampling)
    parts = text_to_image.text_tokenizer, text_to_image.image_tokenizer, text_to_image.transformer
    sharp = TextToImage(config, *parts)
    asked = text_to_image.generate(PROMPT, 3, 4.0, 0.7, 5, 0.9, seed=7)
    assert_same(sharp.generate(PROMPT, 3, seed=7), asked)
    assert differ(asked, pictures[:1])
    assert_same(list(sharp.stream(PROMPT, 3, seed=7))[-1][1], asked[0])
    defaults = SamplingConfig()
    assert_same(sharp.generate(PROMPT, 3, **dataclasses.asdict(defaults), seed=7), pictures[:1])


def test_progress_rises_to_the_end_and_changes_nothing(text_to_image, pictures):
    calls = []
    drawn = text_to_image.generate(
        [PROMPT, OTHER], num_samples=3, seed=7, batch_size=4, progress=lambda *call: calls.append(call)
    )
    assert_same(drawn, pictures)
    done, in_all = zip(*calls, strict=True)
    assert set(in_all) == {6 * 16}
    assert list(done) == sorted(set(done))
    assert done[-1] == 6 * 16
    assert len(done) == 2 * 16  # a call every sixteenth of each of two batches


def test_a_stream_ends_with_the_pictures_of_generate(text_to_image, pictures):
    parts = list(text_to_image.stream(PROMPT, num_samples=3, seed=7, every=6))
    assert [drawn for drawn, _ in parts] == [6, 12, 16]
    for drawn, images in parts:
        assert images.shape == (3, 16, 16, 3)
        assert images.dtype == np.uint8
        cells = images.reshape(3, 4, 4, 4, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(3, 16, -1)
        grey = (cells == 128).all(-1)
        assert grey[:, drawn:].all()
        assert not grey[:, :drawn].any()
    assert_same(parts[-1][1], pictures[0])
    ((drawn, last),) = text_to_image.stream(PROMPT, num_samples=3, seed=7, every=100)
    assert drawn == 16
    assert_same(last, pictures[0])
    ((_, changed),) = text_to_image.stream(PROMPT, 3, 6.0, 2.0, 9, 0.8, seed=7, every=16)
    assert_same(changed, text_to_image.generate(PROMPT, 3, 6.0, 2.0, 9, 0.8, seed=7)[0])


def test_detokenize_gives_the_pictures_of_tokens(text_to_image):
    tokens = np.random.default_rng(0).integers(0, 24, (2, 16)).astype("int32")
    expected = text_to_image.image_tokenizer.detokenize(tokens)
    pictures = text_to_image.detokenize(tokens)
    assert pictures.dtype == np.uint8
    np.testing.assert_allclose(pictures / 255, expected, atol=0.51 / 255)


def test_a_preset_is_the_system_again(preset, pictures):
    again = TextToImage.from_preset(preset)
    assert again.config == tiny.PARTI
    assert_same(again.generate([PROMPT, OTHER], num_samples=3, seed=7), pictures)
    assert sorted(path.name for path in preset.iterdir()) == [
        "config.json",
        "image_tokenizer.safetensors",
        "sentencepiece.model",
        "transformer.safetensors",
    ]


def test_compiled_by_xla_it_draws_the_same_pictures(preset, pictures):
    compiled = TextToImage.from_preset(preset, jit_compile=True)
    assert compiled.jit_compile
    assert_same(compiled.generate([PROMPT, OTHER], num_samples=3, seed=7), pictures)
    for system, is_compiled in ((compiled, True), (TextToImage.from_preset(preset), False)):
        detokenize: Any = system._function("detokenize")
        function = detokenize.get_concrete_function(tf.TensorSpec([6, 16], tf.int32))
        assert function.function_def.attr["_XlaMustCompile"].b == is_compiled


def test_a_preset_of_half_the_size(text_to_image, preset, tmp_path):
    text_to_image.save_to_preset(tmp_path, "float16")

    def size(folder):
        return sum(path.stat().st_size for path in folder.glob("*.safetensors"))

    assert size(tmp_path) < 0.7 * size(preset)
    assert TextToImage.from_preset(tmp_path).generate(PROMPT).shape == (1, 1, 16, 16, 3)


def test_a_save_cut_off_leaves_no_preset(text_to_image, tmp_path):
    text_to_image.save_to_preset(tmp_path)
    (tmp_path / "transformer.safetensors").unlink()
    (tmp_path / "transformer.safetensors").mkdir()  # nothing can be renamed to this
    with pytest.raises(OSError, match="transformer.safetensors"):
        text_to_image.save_to_preset(tmp_path)
    with pytest.raises(FileNotFoundError, match="is no preset: it has no config.json"):
        TextToImage.from_preset(tmp_path)


@pytest.mark.parametrize(
    "name", ["config.json", "image_tokenizer.safetensors", "sentencepiece.model", "transformer.safetensors"]
)
def test_a_missing_or_corrupted_file_of_a_preset_is_named(text_to_image, tmp_path, name):
    text_to_image.save_to_preset(tmp_path)
    path = tmp_path / name
    contents = path.read_bytes()
    path.write_bytes(contents[: len(contents) // 2])
    with pytest.raises(ValueError, match=name) as error:
        TextToImage.from_preset(tmp_path)
    assert "\n" not in str(error.value)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=name):
        TextToImage.from_preset(tmp_path)


def test_an_unknown_preset_is_refused():
    with pytest.raises(FileNotFoundError, match="no preset 'emoji_9000'; there is "):
        TextToImage.from_preset("emoji_9000")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompts": ""}, "prompt '' is empty; say what to draw"),
        ({"prompts": [PROMPT, " \t"]}, r"prompt ' \\t' is empty"),
        ({"prompts": []}, r"prompts is \[\]; it must be a string or a list of at least one"),
        ({"prompts": 3}, "prompts is 3; it must be a string or a list"),
        ({"prompts": [PROMPT, 3]}, "prompt 3 is int; it must be a string"),
        ({"prompts": [None]}, "prompt None is NoneType; it must be a string"),
        ({"guidance_scale": -1.0}, "guidance_scale is -1.0; it must be at least 0"),
        ({"temperature": 0.0}, "temperature is 0.0; it must be above 0"),
        ({"temperature": -1.0}, "temperature is -1.0; it must be above 0"),
        ({"top_k": -1}, "top_k is -1; it must be at least 0"),
        ({"top_k": 25}, "top_k is 25; the codebook has 24 codes"),
        ({"top_p": 0.0}, r"top_p is 0.0; it must be in \(0, 1\]"),
        ({"top_p": 1.5}, r"top_p is 1.5; it must be in \(0, 1\]"),
        ({"num_samples": 0}, "num_samples is 0; it must be an integer of at least 1"),
        ({"num_samples": 1.5}, "num_samples is 1.5; it must be an integer of at least 1"),
        ({"batch_size": 0}, "batch_size is 0; it must be an integer of at least 1"),
        ({"seed": 1.5}, "seed is 1.5; it must be an integer or None"),
        ({"seed": True}, "seed is True; it must be an integer or None"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(text_to_image, arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        text_to_image.generate(**{"prompts": PROMPT} | arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": " "}, "prompt ' ' is empty"),
        ({"prompt": [PROMPT]}, r"prompt \['a red heart'\] is list; it must be a string"),
        ({"every": 0}, "every is 0; it must be an integer of at least 1"),
        ({"num_samples": -2}, "num_samples is -2"),
        ({"top_k": 25}, "top_k is 25; the codebook has 24 codes"),
        ({"temperature": 0.0}, "temperature is 0.0"),
    ],
)
def test_a_stream_refuses_bad_arguments_when_it_is_asked_for(text_to_image, arguments, message):
    with pytest.raises(ValueError, match=message):
        text_to_image.stream(**{"prompt": PROMPT} | arguments)


def test_a_prompt_too_long_is_cut_with_a_warning(text_to_image):
    with pytest.warns(UserWarning, match="tokens, cut to 15"):
        text_to_image.generate(PROMPT + ", in noto style")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        text_to_image.generate(PROMPT)


def test_a_text_tokenizer_of_more_pieces_than_the_config_is_refused(text_to_image, tmp_path):
    captions = tmp_path / "captions.txt"
    captions.write_text("\n".join(tiny.CAPTIONS) + "\n")
    larger = train_text_tokenizer(
        captions,
        tmp_path / "large.model",
        dataclasses.replace(tiny.TEXT_TOKENIZER, vocab_size=36),
        character_coverage=1.0,
    )
    with pytest.raises(ValueError, match="the text tokenizer has 36 pieces, the config allows 32"):
        TextToImage(tiny.PARTI, larger, text_to_image.image_tokenizer, text_to_image.transformer)
