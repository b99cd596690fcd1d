#!/usr/bin/env bash
# torchvision returns packed bits instead of the labels of a PNG with a palette of at most 16 colours.
#
# Guessed: decode_image gives one label a pixel of a mask with a palette, as it does for the 256 colours of DAVIS, or colours.
# Happens: Pillow writes palettes of up to 16 colours with 4, 2 or 1 bits a pixel. torchvision returns an array of the right
# shape in which each row begins with the packed bytes (two labels 1 and 1 are 17) and ends with arbitrary numbers.
# Pillow reads its masks rightly, and torchvision those whose palette is filled up to 17 colours or more.
#
# torchvision 0.29.1, torch 2.14.1, Pillow 13.0.0, NumPy 2.4.6, November 2026
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torchvision==0.29.1 torch==2.14.1 pillow==13.0.0 numpy==2.4.6
venv/bin/python - <<'END'
from pathlib import Path

import numpy as np
import torchvision
from PIL import Image
from torchvision.io import decode_image

mask = np.zeros((4, 16), np.uint8)
mask[1:3, 2:8] = 1
mask[1:3, 10:14] = 2
print("torchvision", torchvision.__version__)
print("row of the mask:", mask[1])
right = {}
for colours in (3, 16, 17, 256):
    image = Image.fromarray(mask)
    image.putpalette(range(3 * colours) if colours < 86 else bytes(3 * colours))
    image.save("mask.png")
    assert (np.asarray(Image.open("mask.png")) == mask).all()
    seen = decode_image("mask.png").numpy()
    bits = Path("mask.png").read_bytes()[24]
    right[colours] = seen.shape == (1, 4, 16) and bool((seen[0] == mask).all())
    packed = seen[0, :, : 16 * bits // 8]
    if bits < 8:
        assert (packed == np.packbits(np.unpackbits(mask[..., None], 2)[..., -bits:].reshape(4, -1), 1)).all()
    print(f"{colours} colours, {bits} bits a pixel: equal {right[colours]}, the row begins with {packed[1]}")
assert right == {3: False, 16: False, 17: True, 256: True}, "it behaves otherwise now"
END
