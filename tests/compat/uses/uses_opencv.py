"""Real uses of opencv-python-headless: an abi3 extension that a loader module finds through `sys.path`."""

import os
import sys

import cv2
import numpy as np
import pytest

PICTURE = np.zeros((40, 60, 3), np.uint8)
PICTURE[10:30, 20:40] = (0, 128, 255)


@pytest.mark.parametrize("form", [".png", ".jpg", ".webp", ".tiff", ".bmp"])
def test_pictures_are_written_and_read(form, tmp_path):
    path = str(tmp_path / f"picture{form}")
    assert cv2.imwrite(path, PICTURE)
    assert np.abs(cv2.imread(path).astype(int) - PICTURE).mean() < 8


def test_a_picture_is_resized():
    assert cv2.resize(PICTURE, (30, 20), interpolation=cv2.INTER_AREA).shape == (20, 30, 3)


def test_contours_are_found():
    contours, _ = cv2.findContours(cv2.cvtColor(PICTURE, cv2.COLOR_BGR2GRAY), cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    assert [cv2.boundingRect(one) for one in contours] == [(20, 10, 20, 20)]


def test_text_is_drawn():
    drawn = cv2.putText(PICTURE.copy(), "x", (5, 35), cv2.FONT_HERSHEY_SIMPLEX, 1, (255, 255, 255))
    assert (drawn != PICTURE).any()


def test_an_error_crosses_the_border():
    with pytest.raises(cv2.error):
        cv2.cvtColor(np.zeros((2, 2), np.uint8), cv2.COLOR_BGR2GRAY)


def test_submodules_are_modules():
    import cv2.dnn

    assert cv2.dnn.__name__ == "cv2.dnn"
    assert callable(cv2.utils.dumpInt)


def test_submodules_that_it_finds_in_its_folder_are_loaded():
    assert "cv2.typing" in sys.modules
    assert "MatLike" in cv2.typing.__all__
    assert cv2.misc.get_ocv_version() == cv2.__version__


def test_features_are_matched():
    random = np.random.default_rng(0).integers(0, 255, (200, 200), np.uint8)
    points, descriptors = cv2.ORB_create().detectAndCompute(cv2.GaussianBlur(random, (5, 5), 0), None)
    assert len(points) == len(descriptors) > 50
    assert all(match.distance == 0 for match in cv2.BFMatcher(cv2.NORM_HAMMING).match(descriptors, descriptors))


def test_a_video_is_written_and_read(tmp_path):
    path = str(tmp_path / "video.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"MJPG"), 10, (60, 40))
    for _ in range(5):
        writer.write(PICTURE)
    writer.release()
    reader = cv2.VideoCapture(path)
    assert sum(reader.read()[0] for _ in range(6)) == 5


def test_what_it_was_built_with_is_told():
    assert "OpenCV" in cv2.getBuildInformation()


def test_the_typing_marker_is_beside_the_module():
    assert os.path.exists(os.path.join(os.path.dirname(cv2.__file__), "py.typed"))
