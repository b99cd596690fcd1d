#!/usr/bin/env bash
# OpenCV 5 returns the same picture for every frame of an interlaced film.
#
# Guessed: a film recorded as interlaced, as recorders of endoscopy and ultrasound and DVDs do, comes with both fields in each
# frame, or not at all.
# Happens: read() answers True for every frame, and all arrays are alike: nothing was written into them. Only a line on
# stderr, "Cannot convert interlaced to progressive frames", tells. OpenCV 4.12 reads the same films rightly, and PyAV does.
#
# opencv-python-headless 5.0.0.93 and 4.12.0.88, PyAV 18.1.0, NumPy 2.2.6, November 2026
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
for name in 4.12.0.88 5.0.0.93; do
    python3 -m venv $name
    $name/bin/pip install --quiet opencv-python-headless==$name numpy==2.2.6
done
5.0.0.93/bin/pip install --quiet av==18.1.0
5.0.0.93/bin/python - <<'END'
import av
import numpy as np

for name, codec in (("film.mp4", "libx264"), ("film.mpg", "mpeg2video")):
    with av.open(name, "w") as film:
        stream = film.add_stream(codec, rate=25, options={"flags": "+ildct+ilme"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for k in range(8):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 40 + 20 * k, np.uint8), format="rgb24")
            film.mux(stream.encode(frame))
        film.mux(stream.encode(None))
    with av.open(name) as film:
        frames = list(film.decode(video=0))
    assert all(frame.interlaced_frame for frame in frames)
    print(name, "PyAV", [int(frame.to_ndarray(format="bgr24")[24, 32, 0]) for frame in frames])
END
cat > read.py <<'END'
import sys

import cv2
import numpy as np

alike = []
for name in ("film.mp4", "film.mpg"):
    film, frames = cv2.VideoCapture(name), []
    while (answer := film.read())[0]:
        frames.append(answer[1].copy())
    assert len(frames) == 8
    alike.append(all(np.array_equal(frame, frames[0]) for frame in frames))
    print(name, "OpenCV", cv2.__version__, "8 times True, all alike:", alike[-1])
assert all(alike) == (sys.argv[1] == "alike"), "it behaves otherwise now"
END
4.12.0.88/bin/python read.py different
5.0.0.93/bin/python read.py alike 2>stderr.txt || { cat stderr.txt && exit 1; }
grep --max-count=1 interlaced stderr.txt
