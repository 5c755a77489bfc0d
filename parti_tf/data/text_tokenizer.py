"""The caption tokenizer: SentencePiece, 16,000 pieces, at most 128 tokens a caption (Parti 2.2)."""

import io
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import sentencepiece
import tensorflow as tf
import tensorflow_text as tf_text
from tqdm import tqdm

from parti_tf.config import TextTokenizerConfig

# Ours: the paper names no special ids. There is no start id: an encoder needs none.
PAD_ID = 0
EOS_ID = 1
UNK_ID = 2

MODEL_TYPES = ("unigram", "bpe")


class TextTokenizer(tf.Module):
    """Turns captions into rows of text ids and back (Parti 2.2).

    Works eagerly, inside tf.data and tf.function, and is carried into a SavedModel by whatever module holds
    it. The empty caption is the row `[eos, pad, pad, ...]`, which guidance uses as the unconditional one.

    Args:
      model: path of a SentencePiece model file, or its bytes.
      max_length: ids in a row, eos included.

    Raises:
      FileNotFoundError: there is no such model file.
      ValueError: it is no SentencePiece model, its special ids are not pad 0, eos 1, unk 2, or `max_length`
        is below 2.
    """

    def __init__(self, model: str | os.PathLike | bytes, max_length: int = 128):
        super().__init__(name="text_tokenizer")
        if max_length < 2:
            raise ValueError(f"max_length is {max_length}; it must be at least 2, one token and eos")
        self._model = _read_model(model)
        self._max_length = max_length
        self._sentencepiece = tf_text.SentencepieceTokenizer(self._model, out_type=tf.int32)
        self._vocab_size = int(self._sentencepiece.vocab_size())

    @property
    def max_length(self) -> int:
        """Ids in a row, eos included."""
        return self._max_length

    @property
    def vocab_size(self) -> int:
        """Number of pieces, the three special ones included."""
        return self._vocab_size

    def __call__(self, captions: tf.Tensor | Sequence[str]) -> tf.Tensor:
        """Gives the text ids of captions.

        A caption with more than `max_length - 1` tokens loses the last ones; eos stays. Called eagerly,
        this warns and names the first such caption; inside a graph nothing can, so count them beforehand
        with `count_truncated`.

        Args:
          captions: string [batch], UTF-8.

        Returns:
          int32 [batch, max_length]: each caption's ids, eos, then pad.
        """
        captions = tf.convert_to_tensor(captions, tf.string)
        tokens = self._sentencepiece.tokenize(captions)  # ragged [batch, (tokens)]
        if tf.executing_eagerly():
            self._warn_of_truncation(captions, tokens)
        tokens = tokens[:, : self._max_length - 1]
        eos = tf.fill([tokens.nrows(), 1], EOS_ID)
        ids = tf.concat([tokens, eos], axis=1).to_tensor(PAD_ID, shape=[None, self._max_length])
        return tf.ensure_shape(ids, [captions.shape[0], self._max_length])

    def _warn_of_truncation(self, captions: tf.Tensor, tokens: tf.RaggedTensor) -> None:
        lengths = tokens.row_lengths().numpy()
        cut = np.flatnonzero(lengths >= self._max_length)
        if cut.size:
            first = captions[cut[0]].numpy().decode(errors="replace")
            warnings.warn(
                f"caption {first[:80]!r} has {lengths[cut[0]]} tokens, cut to {self._max_length - 1}"
                + (f" (and {cut.size - 1} more captions)" if cut.size > 1 else ""),
                stacklevel=3,
            )

    def count_truncated(self, captions: Iterable[str], batch_size: int = 1024) -> int:
        """Gives how many of the captions lose tokens at `max_length`."""
        batches = tf.data.Dataset.from_tensor_slices(list(captions)).batch(batch_size)
        lengths = [self._sentencepiece.tokenize(batch).row_lengths().numpy() for batch in batches]
        return int(np.sum(np.concatenate(lengths) >= self._max_length)) if lengths else 0

    def detokenize(self, text_ids: tf.Tensor) -> tf.Tensor:
        """Gives captions back from text ids, without eos and padding.

        Args:
          text_ids: int32 [batch, length].

        Returns:
          string [batch]: the captions as the model's normalisation left them.
        """
        text_ids = tf.convert_to_tensor(text_ids, tf.int32)
        is_text = (text_ids != PAD_ID) & (text_ids != EOS_ID)
        return self._sentencepiece.detokenize(tf.ragged.boolean_mask(text_ids, is_text))

    def empty_caption_ids(self) -> tf.Tensor:
        """Gives the row of the empty caption, int32 [max_length]: the unconditional text (Parti 2.4)."""
        return tf.constant([EOS_ID] + [PAD_ID] * (self._max_length - 1), tf.int32)

    def save(self, path: str | os.PathLike) -> None:
        """Writes the SentencePiece model file, byte for byte the one this tokenizer was made from."""
        _write_model(Path(path), self._model)


def _read_model(model: str | os.PathLike | bytes) -> bytes:
    source = "model bytes" if isinstance(model, bytes) else os.fspath(model)
    if not isinstance(model, bytes):
        if not Path(model).is_file():
            raise FileNotFoundError(f"no text tokenizer model {source}")
        model = Path(model).read_bytes()
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model)
    except RuntimeError:
        raise ValueError(f"{source} is no SentencePiece model, or is corrupt") from None
    found = (processor.pad_id(), processor.eos_id(), processor.unk_id())
    if found != (PAD_ID, EOS_ID, UNK_ID):
        raise ValueError(f"{source} has pad, eos, unk ids {found}; they must be {(PAD_ID, EOS_ID, UNK_ID)}")
    return model


def _write_model(path: Path, model: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".unfinished")
    try:
        aside.write_bytes(model)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def train_text_tokenizer(
    captions: str | os.PathLike | Sequence[str | os.PathLike],
    out: str | os.PathLike,
    config: TextTokenizerConfig | None = None,
    *,
    model_type: str = "unigram",
    lowercase: bool = False,
    character_coverage: float = 0.9995,
    sample_size: int = 10_000_000,
) -> TextTokenizer:
    """Trains a caption tokenizer on text files, writes its model file and gives the tokenizer (Parti 2.2).

    Ours: unigram pieces over NFKC-normalised text with runs of spaces made one; no byte fallback, so a
    character outside the vocabulary becomes unk. The paper gives the size and that the corpus was sampled.

    Args:
      captions: files of UTF-8 text, one caption a line.
      out: path of the model file.
      config: vocabulary size and caption length; the paper's by default.
      model_type: "unigram" or "bpe".
      lowercase: fold letter case, so that "A Red Heart" and "a red heart" are one caption. Text that a
        picture should show keeps its case only without this.
      character_coverage: share of the text's characters that get a piece of their own. The default leaves
        out the rare scripts of web text; in a small corpus it would leave out letters, and 1 is right.
      sample_size: captions that are drawn at random from a larger corpus, above 100.

    Raises:
      FileNotFoundError: a caption file is missing.
      ValueError: the files hold no caption, or the vocabulary size does not suit them; the message says
        what does.
    """
    config = config or TextTokenizerConfig()
    files = [captions] if isinstance(captions, (str, os.PathLike)) else list(captions)
    _check_training_options(files, model_type, character_coverage, sample_size)
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_read_captions(files),
            model_writer=model,
            vocab_size=config.vocab_size,
            model_type=model_type,
            normalization_rule_name="nmt_nfkc_cf" if lowercase else "nmt_nfkc",
            character_coverage=character_coverage,
            input_sentence_size=sample_size,
            shuffle_input_sentence=True,
            pad_id=PAD_ID,
            eos_id=EOS_ID,
            unk_id=UNK_ID,
            bos_id=-1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(_explain_training_error(str(error), config.vocab_size)) from None
    _write_model(Path(out), model.getvalue())
    return TextTokenizer(model.getvalue(), config.max_length)


def _check_training_options(
    files: Sequence[str | os.PathLike], model_type: str, character_coverage: float, sample_size: int
) -> None:
    if model_type not in MODEL_TYPES:
        raise ValueError(f"model_type is {model_type!r}; it must be one of {', '.join(MODEL_TYPES)}")
    if not 0 < character_coverage <= 1:
        raise ValueError(f"character_coverage is {character_coverage}; it must be in (0, 1]")
    if sample_size <= 100:  # SentencePiece's own limit
        raise ValueError(f"sample_size is {sample_size}; it must be at least 101")
    for file in files:
        if not Path(file).is_file():
            raise FileNotFoundError(f"no caption file {file}")
    if next(_read_lines(files), None) is None:
        raise ValueError(f"no caption in {', '.join(map(str, files)) or 'no files'}")


def _read_lines(files: Sequence[str | os.PathLike]) -> Iterator[str]:
    for file in files:
        with open(file, encoding="utf-8", errors="replace") as lines:
            yield from (line.strip() for line in lines if line.strip())


def _read_captions(files: Sequence[str | os.PathLike]) -> Iterator[str]:
    return iter(tqdm(_read_lines(files), desc="captions", unit="caption"))


def _explain_training_error(error: str, vocab_size: int) -> str:
    most = re.search(r"Vocabulary size too high.*<= (\d+)", error)
    if most:
        return f"vocab_size is {vocab_size}; these captions allow at most {most[1]} pieces"
    least = re.search(r"smaller than required_chars\.\s*\d+ vs (\d+)", error)
    if least:
        return f"vocab_size is {vocab_size}; the characters of these captions alone need more than {least[1]}"
    return f"SentencePiece could not train: {' '.join(error.split())}"
