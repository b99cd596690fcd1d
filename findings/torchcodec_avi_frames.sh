#!/usr/bin/env bash
# torchcodec's frame k of an AVI with B-frames is the one two before it, and the last ones never come.
#
# Guessed: in the mode "exact", which is the default and reads through the whole file first, decoder[k] is frame k.
# Happens: AVI stores no times of presentation. Of H.264 with B-frames, decoder[k] is frame k - 2, three numbers
# give the first frame and none gives the last two; a slice of all raises. PyAV, which decodes by the same FFmpeg, gives all
# frames in order (their times are not in order); in MP4 the same film is right in both.
#
# torchcodec 0.17.0 with the FFmpeg 8 of PyAV 18.1.0, torch 2.14.1, NumPy 2.4.6, November 2026
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torchcodec==0.17.0 torch==2.14.1 av==18.1.0 numpy==2.4.6
# torchcodec looks for FFmpeg by the names that a system has; PyAV brings it under others.
wheel=$(echo "$folder"/venv/lib/python3*/site-packages/av.libs)
mkdir ffmpeg
for file in "$wheel"/lib{avutil,avcodec,avformat,avdevice,avfilter,swscale,swresample}-*; do
    ln -s "$file" ffmpeg/"$(basename "$file" | sed -E 's/-[0-9a-f]+\.so\.([0-9]+).*/.so.\1/')"
done
LD_LIBRARY_PATH="$folder/ffmpeg:$wheel" venv/bin/python - <<'END'
from importlib.metadata import version

import av
import numpy as np
from torchcodec.decoders import VideoDecoder


def number(picture):
    """Of the frame, which is 20 + 8 times that in grey."""
    return round((float(np.asarray(picture).mean()) - 20) / 8)


shift, order = {}, list(range(24))
OPTIONS = {"bf": "2", "b_strategy": "0", "sc_threshold": "0", "crf": "1"}
print("torchcodec", version("torchcodec"), "PyAV", version("av"))
for name in ("film.mp4", "film.avi"):
    with av.open(name, "w") as film:
        stream = film.add_stream("libx264", rate=25, options=OPTIONS)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for k in order:
            picture = np.full((48, 64, 3), 20 + 8 * k, np.uint8)
            film.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        film.mux(stream.encode(None))
    with av.open(name) as film:
        assert [number(frame.to_ndarray(format="rgb24")) for frame in film.decode(video=0)] == order
    assert len(VideoDecoder(name)) == 24
    # A decoder for each, so that none depends on what was asked before.
    seen = [number(VideoDecoder(name)[k]) for k in order]
    shift[name] = [k - seen[k] for k in order]
    print(f"{name}: frames 0 to 23 are {seen}")
assert set(shift["film.mp4"]) == {0}
assert set(shift["film.avi"][2:]) == {2}, "it behaves otherwise now"
END
