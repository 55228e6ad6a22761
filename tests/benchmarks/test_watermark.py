import numpy as np
import pytest
from PIL import Image

from benchmarks.watermark import DAMAGES, false_alarms, pictures, psnr, survival


def test_every_kind_of_picture_is_of_the_size_asked_for() -> None:
    drawn = list(pictures(64, 1, []))
    assert len(drawn) == 3
    found = list(pictures(96, 1, drawn[:1]))
    assert [picture.size for picture in found] == [(96, 96)] * 4
    assert len({picture.tobytes() for picture in found}) == 4


def test_survival_is_a_share_of_all_pictures_for_each_damage() -> None:
    found = survival(list(pictures(96, 1, [])))
    assert found["num_pictures"] == 3
    assert found["survived_share"].keys() == DAMAGES.keys()
    assert found["survived_share"]["none"] == 1


def test_the_ratio_is_that_of_known_noise() -> None:
    (picture, *_) = pictures(64, 1, [])
    changed = np.asarray(picture).astype(int)
    changed = np.where(changed < 255, changed + 1, changed - 1).astype(np.uint8)
    assert psnr(picture, Image.fromarray(changed)) == pytest.approx(48.13, abs=0.01)


def test_pictures_without_a_mark_score_around_zero() -> None:
    found = false_alarms(40)
    assert found["num_pictures"] == 40
    assert found["found"] == 0
    assert abs(found["score"]["mean"]) < 1
