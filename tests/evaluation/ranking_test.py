import numpy as np
import pytest

from parti_tf.evaluation.ranking import ImageFeatures, draw_distractors, rank_of_true


def test_rank_counts_who_is_nearer():
    features = np.array([1.0, 0.0])
    true = np.array([0.8, 0.6])
    # Cosines: true 0.8; distractors 1, 0.6, 0, and 0.8 again, a tie, which counts against the true image.
    distractors = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [0.8, -0.6]])
    assert rank_of_true(features, true, distractors) == 3
    assert rank_of_true(features, true, distractors[1:3]) == 1


def test_distractors_are_99_others_that_depend_on_seed_and_id_alone():
    rows = np.arange(1000, 1300)
    drawn = draw_distractors(1007, rows, "noto:1F600", seed=0)
    assert len(np.unique(drawn)) == 99
    assert 1007 not in drawn
    assert np.isin(drawn, rows).all()
    np.testing.assert_array_equal(drawn, draw_distractors(1007, rows, "noto:1F600", seed=0))
    for example_id, seed in (("noto:1F601", 0), ("noto:1F600", 1)):
        assert set(draw_distractors(1007, rows, example_id, seed)) != set(drawn)


def test_distractors_are_all_others_where_there_are_fewer():
    assert set(draw_distractors(2, np.arange(5), "a", seed=0)) == {0, 1, 3, 4}


def test_every_row_is_drawn_as_often():
    counts = np.zeros(200)
    for index in range(400):
        counts[draw_distractors(0, np.arange(200), f"id {index}", seed=0)] += 1
    # 400 draws of 99 from 199: 199 times each, standard deviation sqrt(400 * 0.4975 * 0.5025) = 10.
    assert counts[0] == 0
    assert counts[1:].min() > 199 - 50
    assert counts[1:].max() < 199 + 50


def test_features_are_cosines_of_what_pictures_show():
    generator = np.random.default_rng(0)
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[::8] = stripes[1::8] = 255
    noisy_stripes = np.clip(stripes + generator.normal(0, 20, stripes.shape), 0, 255).astype(np.uint8)
    disc = np.full((64, 64, 3), 255, np.uint8)
    disc[np.hypot(*(np.indices((64, 64)) - 32)) < 20] = (220, 30, 30)
    pictures = np.stack([stripes, noisy_stripes, disc])
    features = ImageFeatures(image_size=96, batch_size=2)(pictures)
    assert features.shape == (3, 1280)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
    assert features[0] @ features[1] > features[1] @ features[2]
    assert rank_of_true(features[1], features[0], features[2:]) == 1
    assert features[0] @ features[2] == pytest.approx(features[2] @ features[0])
    smaller = ImageFeatures(image_size=64, batch_size=2)(pictures)
    assert np.abs(smaller - features).max() > 0.01
