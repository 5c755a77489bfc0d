"""Caption to images, the paper's Fig. 3. Read this first.

A caption becomes text ids; the Transformer's encoder reads them and its decoder draws image tokens one after the
other, guided away from what it would draw without a caption; the detokenizer turns the tokens into pixels.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from parti_tf import preset_files
from parti_tf.config import PartiConfig, SamplingConfig, SamplingOverrides
from parti_tf.data.text_tokenizer import TextTokenizer
from parti_tf.generation.image_tokens import ImageTokenSampler, SamplingRows
from parti_tf.models.encoder_decoder import EncoderDecoder
from parti_tf.models.vit_vqgan import VitVqgan

Progress = Callable[[int, int], None]


class TextToImage:
    """A whole text-to-image system (Parti Fig. 3).

    Args:
      config: sizes of all parts.
      text_tokenizer: captions to text ids.
      image_tokenizer: image tokens to pixels.
      transformer: text ids to image tokens.
      jit_compile: compile sampling by XLA: faster a picture, but the first of each batch size waits for the
        compiler.
    """

    def __init__(
        self,
        config: PartiConfig,
        text_tokenizer: TextTokenizer,
        image_tokenizer: VitVqgan,
        transformer: EncoderDecoder,
        jit_compile: bool = False,
    ):
        if text_tokenizer.vocab_size > config.text_tokenizer.vocab_size:
            raise ValueError(
                f"the text tokenizer has {text_tokenizer.vocab_size} pieces, the config allows "
                f"{config.text_tokenizer.vocab_size}"
            )
        self.config = config
        self.text_tokenizer = text_tokenizer
        self.image_tokenizer = image_tokenizer
        self.transformer = transformer
        self.jit_compile = jit_compile
        self._functions: dict[Any, Callable] = {}

    @classmethod
    def from_preset(cls, preset: str | os.PathLike, jit_compile: bool = False) -> "TextToImage":
        """Gives the system that a preset holds.

        Args:
          preset: name of a preset that comes with the package, or a preset's folder.
          jit_compile: see the class.

        Raises:
          FileNotFoundError: no such preset, or one of its files is missing.
          ValueError: one of its files is corrupted or does not fit the others.
        """
        folder = preset_files.find_preset(preset)
        config = preset_files.read_config(folder)
        text_tokenizer = TextTokenizer(folder / preset_files.SENTENCEPIECE, config.text_tokenizer.max_length)
        image_tokenizer, transformer = VitVqgan(config.image_tokenizer), EncoderDecoder(config.transformer)
        for model, name in (
            (image_tokenizer, preset_files.IMAGE_TOKENIZER),
            (transformer, preset_files.TRANSFORMER),
        ):
            model.build()
            preset_files.read_weights(folder / name, model)
        return cls(config, text_tokenizer, image_tokenizer, transformer, jit_compile)

    def save_to_preset(self, folder: str | os.PathLike, dtype: str = "float32") -> None:
        """Writes the system to a folder that `from_preset` reads.

        A config that is there goes first and the new one comes last, so a cut-off save is no preset.

        Args:
          folder: made if it is not there.
          dtype: of the weights on disk, `float32` or `float16`.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / preset_files.CONFIG).unlink(missing_ok=True)
        preset_files.write_weights(folder / preset_files.IMAGE_TOKENIZER, self.image_tokenizer, dtype)
        preset_files.write_weights(folder / preset_files.TRANSFORMER, self.transformer, dtype)
        self.text_tokenizer.save(folder / preset_files.SENTENCEPIECE)
        preset_files.write_config(folder, self.config)

    def generate(
        self,
        prompts: str | Sequence[str],
        num_samples: int = 1,
        guidance_scale: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        batch_size: int = 16,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Gives pictures of captions (Parti 2.4).

        Sample n of a prompt is a function of the prompt, the seed and n: not of the other prompts, nor of how
        many samples there are. Only rounding, which may differ between batch sizes, can decide a near-tie
        otherwise. Where a sampling option is None, the preset's own choice is taken.

        Args:
          prompts: one caption or several.
          num_samples: pictures of each.
          guidance_scale: lambda of Eq. 1, at least 0.
          temperature: above 0.
          top_k: draw from the k most likely codes, at most the codebook; 0 is all of them.
          top_p: draw from the smallest set of codes of this probability, in (0, 1].
          seed: any integer; None draws a fresh one.
          batch_size: pictures drawn at a time.
          progress: called as `progress(tokens_done, tokens_in_all)` while tokens are drawn.

        Returns:
          uint8 `[prompts, num_samples, H, W, 3]`.

        Raises:
          ValueError: an argument is outside its range.
        """
        prompts = [prompts] if isinstance(prompts, str) else prompts
        _check_prompts(prompts)
        sampling = SamplingOverrides(guidance_scale, temperature, top_k, top_p).over(self.config.sampling)
        self._check(sampling, num_samples=num_samples, batch_size=batch_size)
        text_ids, rows = self._rows(prompts, num_samples, sampling, _seed(seed))
        count, length = len(text_ids), self.config.transformer.num_tokens
        images = []
        for start in range(0, count, batch_size):
            batch = slice(start, start + batch_size)
            part = text_ids[batch], SamplingRows(*(row[batch] for row in rows))
            if progress is None:
                tokens = self._function("sample", sampling.guidance_scale != 1)(*part)
            else:
                for state in self._states(*part, sampling, num_steps=max(1, length // 16)):
                    drawn = start * length + int(state.position) * len(part[0])
                    progress(drawn, count * length)
                tokens = tf.transpose(state.tokens)
            images.append(self.detokenize(tokens))
        return np.concatenate(images).reshape(len(prompts), num_samples, *images[0].shape[1:])

    def stream(
        self,
        prompt: str,
        num_samples: int = 1,
        guidance_scale: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        every: int = 32,
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yields a caption's pictures as they are drawn; the last are those of `generate`.

        Args:
          prompt: the caption.
          every: tokens between two pictures.
          num_samples, guidance_scale, temperature, top_k, top_p, seed: see `generate`.

        Yields:
          The number of tokens drawn, and uint8 `[num_samples, H, W, 3]`, grey where nothing is drawn yet.

        Raises:
          ValueError: an argument is outside its range.
        """
        _check_prompts([prompt])
        sampling = SamplingOverrides(guidance_scale, temperature, top_k, top_p).over(self.config.sampling)
        self._check(sampling, num_samples=num_samples, every=every)
        return self._stream(prompt, num_samples, sampling, _seed(seed), every)

    def _stream(self, prompt, num_samples, sampling, seed, every):
        text_ids, rows = self._rows([prompt], num_samples, sampling, seed)
        for state in self._states(text_ids, rows, sampling, every):
            drawn = int(state.position)
            images = self.detokenize(tf.transpose(state.tokens))
            yield drawn, _grey_after(images, drawn, self.config.image_tokenizer.patch_size)

    def detokenize(self, image_tokens) -> np.ndarray:
        """Gives uint8 images `[B, H, W, 3]` of image tokens int32 `[B, num_tokens]`."""
        return self._function("detokenize")(image_tokens).numpy()

    def _states(self, text_ids, rows: SamplingRows, sampling: SamplingConfig, num_steps: int):
        """Yields the decoding's state every `num_steps` tokens, the last one complete."""
        guided = sampling.guidance_scale != 1
        state = self._function("start", guided)(text_ids)
        length = self.config.transformer.num_tokens
        for done in range(0, length, num_steps):
            state = self._function("advance", guided)(state, rows, min(num_steps, length - done))
            yield state

    def _rows(self, prompts, num_samples: int, sampling: SamplingConfig, seed: int):
        """Gives the text ids `[prompts * samples, S]` and how each of these rows is drawn."""
        text_ids = tf.repeat(self.text_tokenizer(prompts), num_samples, axis=0)
        count = len(prompts) * num_samples
        samples = tf.tile(tf.range(num_samples), [len(prompts)])
        return text_ids, SamplingRows(
            tf.stack([tf.fill([count], seed), samples], axis=1),
            tf.fill([count], float(sampling.guidance_scale)),
            tf.fill([count], float(sampling.temperature)),
            tf.fill([count], int(sampling.top_k)),
            tf.fill([count], float(sampling.top_p)),
        )

    def _function(self, name: str, guided: bool = True) -> Callable:
        """Gives a compiled part of the sampling loop, traced once for every batch size."""
        key = (name, guided)
        if key not in self._functions:
            sampler = ImageTokenSampler(
                self.transformer, self.text_tokenizer.empty_caption_ids(), self.jit_compile, guided
            )
            parts = {
                "sample": sampler.sample,
                "start": sampler.start,
                "advance": sampler.advance,
                "detokenize": self._detokenize,
            }
            self._functions[key] = tf.function(
                parts[name], jit_compile=self.jit_compile, reduce_retracing=not self.jit_compile
            )
        return self._functions[key]

    def _detokenize(self, image_tokens):
        return tf.cast(tf.round(self.image_tokenizer.detokenize(image_tokens) * 255.0), tf.uint8)

    def _check(self, sampling: SamplingConfig, **counts: int) -> None:
        for name, value in counts.items():
            if not isinstance(value, (int, np.integer)) or value < 1:
                raise ValueError(f"{name} is {value!r}; it must be an integer of at least 1")
        codes = self.config.image_tokenizer.codebook_size
        if sampling.top_k > codes:
            raise ValueError(f"top_k is {sampling.top_k}; the codebook has {codes} codes")


def _check_prompts(prompts: Any) -> None:
    if not isinstance(prompts, Sequence) or not prompts:
        raise ValueError(f"prompts is {prompts!r}; it must be a string or a list of at least one")
    for prompt in prompts:
        if not isinstance(prompt, str):
            raise ValueError(f"prompt {prompt!r} is {type(prompt).__name__}; it must be a string")
        if not prompt.strip():
            raise ValueError(f"prompt {prompt!r} is empty; say what to draw")


def _seed(seed: int | None) -> int:
    """Gives the int32 that decides every draw; any integer is taken modulo 2**32."""
    if seed is None:
        return int(np.random.SeedSequence().generate_state(1, np.uint32)[0].astype(np.int32))
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise ValueError(f"seed is {seed!r}; it must be an integer or None")
    return int(np.int64(int(seed) % 2**32).astype(np.uint32).astype(np.int32))


def _grey_after(images: np.ndarray, drawn: int, patch_size: int) -> np.ndarray:
    """Greys the cells of `[B, H, W, 3]` that are not drawn yet, in raster order."""
    grid = images.shape[1] // patch_size
    waiting = np.arange(grid**2).reshape(grid, grid) >= drawn
    mask = np.kron(waiting, np.ones([patch_size, patch_size], dtype=bool))
    return np.where(mask[None, :, :, None], np.uint8(128), images)
