#!/usr/bin/env bash
# OpenCV cannot go to the first frames of a transport stream, and returns later ones for them.
#
# Guessed: after set(CAP_PROP_POS_FRAMES, k), read() returns frame k where frames come at a constant rate, as it does of
# MP4, MKV and AVI.
# Happens: of a .ts or .mts (as AVCHD recorders write), every frame up to the second key frame comes back as that frame or the
# one after it: with a key frame every 25, frame 10 is frame 26. Reading from the start to the end gives all in order.
#
# opencv-python-headless 5.0.0.93, PyAV 18.1.0, NumPy 2.4.6, November 2026
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet opencv-python-headless==5.0.0.93 av==18.1.0 numpy==2.4.6
venv/bin/python - <<'END'
import av
import cv2
import numpy as np


def number(picture):
    """Of the frame, which is 20 + 4 times that in grey."""
    return round((float(picture.mean()) - 20) / 4)


wrong = {}
for name in ("film.mp4", "film.ts"):
    with av.open(name, "w") as film:
        stream = film.add_stream("libx264", rate=25, options={"g": "25", "sc_threshold": "0", "crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for k in range(50):
            picture = np.full((48, 64, 3), 20 + 4 * k, np.uint8)
            film.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        film.mux(stream.encode(None))
    film = cv2.VideoCapture(name)
    assert [number(film.read()[1]) for _ in range(50)] == list(range(50))
    seen = []
    for k in range(50):
        film.set(cv2.CAP_PROP_POS_FRAMES, k)
        seen.append(number(film.read()[1]))
    wrong[name] = [k for k in range(50) if seen[k] != k]
    print(f"OpenCV {cv2.__version__}, {name}: asked for frames 0, 1, 10, 40; seen {[seen[k] for k in (0, 1, 10, 40)]}")
    print(f"    frames that are another: {len(wrong[name])}")
assert not wrong["film.mp4"]
assert set(range(25)) <= set(wrong["film.ts"]), "it behaves otherwise now"
END
