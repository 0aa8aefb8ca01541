"""The curve of one training, as a page shows it."""

import math
from xml.etree import ElementTree

import pytest

from tunesmith.pages import curves


def test_a_thinned_curve_keeps_its_mean_and_its_ends_and_leaves_out_what_is_not_finite():
    curve = [(step, float(step % 7)) for step in range(1, 1201)]
    thin = curves.thinned(curve)
    assert len(thin) == curves.POINTS
    assert sum(y for _, y in thin) / len(thin) == pytest.approx(sum(y for _, y in curve) / len(curve))
    assert thin[0][0] == pytest.approx(10.5)
    assert thin[-1][0] == pytest.approx(1190.5)
    assert curves.thinned([(1, 2.0), (2, math.nan), (3, math.inf), (4, 1.0)]) == [(1.0, 2.0), (4.0, 1.0)]


def test_the_picture_of_a_training_marks_where_it_overfits_and_is_an_svg_file():
    train = [(step, 3.0 - step / 50) for step in range(1, 101)]
    shown = curves.losses([*train, (101, math.nan)], [(50, 1.5), (100, 1.8)], overfit_from=50)
    root = ElementTree.fromstring(shown)
    marked = [tag.attrib for tag in root if tag.tag.endswith("circle") and tag.get("class") == "over"]
    assert len(marked) == 1
    words = [tag.text for tag in root if tag.tag.endswith("text")]
    assert "overfits from step 50: tune loss 1.500 there, 1.800 at the end" in words
    assert "nan" not in shown
    assert not any("overfits" in word for word in ElementTree.fromstring(curves.losses(train, [(100, 1.0)])).itertext())
    ElementTree.fromstring(curves.losses([], [(1, math.inf)]))
