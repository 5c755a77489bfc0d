import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from parti_tf.training.sample_pictures import SamplePictures


def test_every_epoch_leaves_a_picture_for_tensorboard_and_as_a_file(tmp_path):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    steps = []

    def draw(drawn: keras.Model) -> np.ndarray:
        assert drawn is model
        steps.append(int(model.optimizer.iterations))
        return np.full((4, 6, 3), 10 * len(steps), np.uint8)

    pictures = SamplePictures(tmp_path, draw)
    model.fit(np.ones((4, 1)), np.ones((4, 1)), batch_size=2, epochs=2, callbacks=[pictures], verbose=0)
    assert steps == [2, 4]
    for epoch in (1, 2):
        file = np.asarray(Image.open(tmp_path / "pictures" / f"{epoch:04d}.png"))
        np.testing.assert_array_equal(file, np.full((4, 6, 3), 10 * epoch))
    assert list(read_pictures(tmp_path)) == [(0, 10), (1, 20)]


def read_pictures(folder):
    """Yields the step and first value of each picture in the event file."""
    (path,) = (folder / "events" / "pictures").iterdir()
    for record in tf.data.TFRecordDataset(str(path)):
        event = tf.compat.v1.Event.FromString(record.numpy())
        for value in event.summary.value:
            yield event.step, int(tf.io.decode_image(value.tensor.string_val[2])[0, 0, 0])
