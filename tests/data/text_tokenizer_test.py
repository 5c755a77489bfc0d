import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import tensorflow as tf

from parti_tf.config import TextTokenizerConfig
from parti_tf.data import text_tokenizer
from parti_tf.data.text_tokenizer import EOS_ID, PAD_ID, UNK_ID, TextTokenizer, train_text_tokenizer

CONFIG = TextTokenizerConfig(vocab_size=150, max_length=12)
# Real captions of some variety: the labels that Emoji-3 holds out.
SPLITS = json.loads((Path(text_tokenizer.__file__).parent / "emoji3_splits.json").read_text(encoding="utf-8"))
CAPTIONS = [f"{label}, in noto style" for split in ("attr", "facing", "colour_shape") for label in SPLITS[split]]


@pytest.fixture(scope="module")
def captions_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("captions") / "captions.txt"
    path.write_text("\n".join(CAPTIONS) + "\n\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def model_file(captions_file):
    path = captions_file.with_name("sentencepiece.model")
    train_text_tokenizer(captions_file, path, CONFIG, character_coverage=1.0)
    return path


@pytest.fixture(scope="module")
def tokenizer(model_file):
    return TextTokenizer(model_file, CONFIG.max_length)


def _train(captions_file, tmp_path, vocab_size=150, **options):
    config = dataclasses.replace(CONFIG, vocab_size=vocab_size)
    options.setdefault("character_coverage", 1.0)
    return train_text_tokenizer(captions_file, tmp_path / "new.model", config, **options)


def test_rows_are_ids_then_eos_then_padding(tokenizer):
    ids = tokenizer(["green heart", "", "blue"]).numpy()
    assert ids.shape == (3, 12)
    assert ids.dtype == np.int32
    for row in ids:
        end = row.tolist().index(EOS_ID)
        assert (row[:end] > UNK_ID).all()
        assert (row[end + 1 :] == PAD_ID).all()
    assert ids[1].tolist() == [EOS_ID] + [PAD_ID] * 11 == tokenizer.empty_caption_ids().numpy().tolist()


def test_captions_come_back(tokenizer):
    captions = ["green heart", "", "blue square"]
    assert [text.decode() for text in tokenizer.detokenize(tokenizer(captions)).numpy()] == captions


def test_a_whole_long_caption_round_trips_in_a_longer_row(model_file):
    ids = TextTokenizer(model_file, 64)(CAPTIONS)
    assert [text.decode() for text in TextTokenizer(model_file, 64).detokenize(ids).numpy()] == CAPTIONS


def test_characters_outside_the_vocabulary_become_unk(tokenizer):
    assert UNK_ID in tokenizer(["红"]).numpy()


def test_longer_captions_keep_eos_and_warn(tokenizer):
    long = "green heart, " * 9
    with pytest.warns(UserWarning, match=r"caption 'green heart, .* tokens, cut to 11 \(and 1 more") as warned:
        ids = tokenizer(["blue", long, long]).numpy()
    assert len(warned) == 1
    assert ids[1, -1] == EOS_ID
    assert PAD_ID not in ids[1]
    assert tokenizer.count_truncated(["blue", long, "", long]) == 2
    assert tokenizer.count_truncated([]) == 0


def test_a_caption_that_just_fits_is_whole(tokenizer, recwarn):
    length = int(tokenizer(["blue circle"]).numpy()[0].tolist().index(EOS_ID))
    fits = TextTokenizer(tokenizer._model, length + 1)
    assert fits(["blue circle"]).numpy()[0, -1] == EOS_ID
    assert fits.detokenize(fits(["blue circle"])).numpy()[0] == b"blue circle"
    assert not recwarn.list
    assert fits.count_truncated(["blue circle"]) == 0


def test_same_ids_in_a_function_and_in_tf_data(tokenizer):
    eager = TextTokenizer(tokenizer._model, 64)(CAPTIONS).numpy()
    longer = TextTokenizer(tokenizer._model, 64)
    np.testing.assert_array_equal(tf.function(longer)(tf.constant(CAPTIONS)), eager)
    dataset = tf.data.Dataset.from_tensor_slices(CAPTIONS).batch(10, drop_remainder=True).map(longer)
    assert dataset.element_spec == tf.TensorSpec((10, 64), tf.int32)
    np.testing.assert_array_equal(np.concatenate(list(dataset.as_numpy_iterator())), eager[:160])


def test_saved_model_holds_the_vocabulary(tokenizer, model_file, tmp_path):
    class Served(tf.Module):
        def __init__(self):
            self.tokenizer = TextTokenizer(model_file, 12)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def tokenize(self, captions):
            return {"text_ids": self.tokenizer(captions)}

    served = Served()
    tf.saved_model.save(served, tmp_path / "saved", signatures=served.tokenize)
    with tf.compat.v1.Session(graph=tf.Graph()) as session:  # as a model server loads it: no Python objects
        meta = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(tmp_path / "saved"))
        signature = meta.signature_def["serving_default"]
        feeds = {signature.inputs["captions"].name: ["blue heart", ""]}
        ids = session.run(signature.outputs["text_ids"].name, feeds)
    np.testing.assert_array_equal(ids, tokenizer(["blue heart", ""]))


def test_saved_file_is_the_one_it_came_from(tokenizer, model_file, tmp_path):
    tokenizer.save(tmp_path / "copy" / "sentencepiece.model")
    assert (tmp_path / "copy" / "sentencepiece.model").read_bytes() == model_file.read_bytes()
    assert [path.name for path in (tmp_path / "copy").iterdir()] == ["sentencepiece.model"]


def test_vocabulary_has_the_asked_size_and_special_ids(tokenizer, model_file):
    assert tokenizer.vocab_size == CONFIG.vocab_size == 150
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
    assert [processor.id_to_piece(i) for i in range(3)] == ["<pad>", "</s>", "<unk>"]


def test_training_again_gives_the_same_model(captions_file, model_file, tmp_path):
    _train(captions_file, tmp_path)
    assert (tmp_path / "new.model").read_bytes() == model_file.read_bytes()


def test_model_type_changes_the_pieces(captions_file, model_file, tmp_path):
    processors = [_processor(_train(captions_file, tmp_path, model_type=kind)) for kind in ("unigram", "bpe")]
    unigram, bpe = ({one.id_to_piece(i) for i in range(150)} for one in processors)
    assert unigram != bpe


def test_lowercase_makes_letter_case_one(captions_file, tmp_path, tokenizer):
    folded = _train(captions_file, tmp_path, lowercase=True)
    np.testing.assert_array_equal(folded(["Red Heart"]), folded(["red heart"]))
    assert (tokenizer(["Red heart"]).numpy() != tokenizer(["red heart"]).numpy()).any()


def test_character_coverage_drops_rare_characters(captions_file, tmp_path):
    rare = tmp_path / "rare.txt"
    rare.write_text(captions_file.read_text() + "blue ß\n", encoding="utf-8")
    assert UNK_ID not in _train([rare], tmp_path)(["ß"]).numpy()
    assert UNK_ID in _train([rare], tmp_path, character_coverage=0.99)(["ß"]).numpy()


def test_sample_size_leaves_captions_out(captions_file, model_file, tmp_path):
    _train(captions_file, tmp_path, vocab_size=60, sample_size=101)
    few = (tmp_path / "new.model").read_bytes()
    _train(captions_file, tmp_path, vocab_size=60)
    assert (tmp_path / "new.model").read_bytes() != few


def test_all_files_are_read(captions_file, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("quartz\n" * 20, encoding="utf-8")
    assert UNK_ID not in _train([captions_file, other], tmp_path)(["quartz"]).numpy()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 4000}, r"vocab_size is 4000; these captions allow at most \d+ pieces"),
        ({"vocab_size": 10}, r"vocab_size is 10; the characters of these captions alone need more than \d+"),
        ({"model_type": "word2vec"}, "model_type is 'word2vec'; it must be one of unigram, bpe"),
        ({"character_coverage": 0.0}, r"character_coverage is 0.0; it must be in \(0, 1\]"),
        ({"sample_size": 100}, "sample_size is 100; it must be at least 101"),
    ],
)
def test_bad_training_options_are_refused(captions_file, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        _train(captions_file, tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_most_pieces_that_the_error_names_do_train(captions_file, tmp_path):
    with pytest.raises(ValueError, match="at most") as error:
        _train(captions_file, tmp_path, vocab_size=4000)
    most = int(str(error.value).split("at most ")[1].split()[0])
    assert _train(captions_file, tmp_path, vocab_size=most).vocab_size == most


def test_missing_and_empty_caption_files_are_named(captions_file, tmp_path):
    with pytest.raises(FileNotFoundError, match="no caption file .*none.txt"):
        _train([captions_file, tmp_path / "none.txt"], tmp_path)
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(ValueError, match="no caption in .*empty.txt"):
        _train(tmp_path / "empty.txt", tmp_path)


def test_bad_model_files_are_named(model_file, tmp_path):
    bad = tmp_path / "bad.model"
    with pytest.raises(FileNotFoundError, match="no text tokenizer model .*bad.model"):
        TextTokenizer(bad)
    for content in (b"", b"no model", model_file.read_bytes()[:200], model_file.read_bytes()[:-7]):
        bad.write_bytes(content)
        with pytest.raises(ValueError, match="bad.model"):
            TextTokenizer(bad)


def test_foreign_special_ids_are_refused(captions_file, tmp_path):
    prefix = str(tmp_path / "foreign")
    sentencepiece.SentencePieceTrainer.train(
        input=str(captions_file), model_prefix=prefix, vocab_size=150, minloglevel=2
    )
    with pytest.raises(ValueError, match=r"pad, eos, unk ids \(-1, 2, 0\); they must be \(0, 1, 2\)"):
        TextTokenizer(prefix + ".model")


def test_too_short_rows_are_refused(model_file):
    with pytest.raises(ValueError, match="max_length is 1; it must be at least 2"):
        TextTokenizer(model_file, 1)


def _processor(tokenizer):
    return sentencepiece.SentencePieceProcessor(model_proto=tokenizer._model)
