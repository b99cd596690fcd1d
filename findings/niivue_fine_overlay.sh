#!/usr/bin/env bash
# NiiVue draws an overlay on the background's grid: a lesion between two slices of the image is not drawn.
#
# Guessed: a lesion mask of 1 mm over an image with slices of 5 mm is drawn in its own resolution.
# Happens: it is resampled, by nearest neighbours, to the image. A lesion of 4 x 4 x 1 mm on the centre of a slice is
# drawn 5 mm thick; the same lesion 2 mm further up is not drawn at all, in any plane and in 3D. With the mask loaded
# first, as the background, slices show both.
#
# NiiVue 0.69.0 (npm), playwright 1.65.2, nibabel 5.4.2, Debian's Chromium 156, November 2026
# Needs npm, and `chromium` on the PATH.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-save @niivue/niivue@0.69.0 > /dev/null
python3 -m venv venv
venv/bin/pip install --quiet playwright==1.65.2 nibabel==5.4.2 numpy==2.2.6
venv/bin/python - <<'END'
import functools
import http.server
import threading
from importlib.metadata import version
from shutil import which

import nibabel
import numpy as np
from playwright.sync_api import sync_playwright


def save(array, spacing_mm, name):
    image = nibabel.Nifti1Image(array, np.diag((*spacing_mm, 1.0)))
    image.set_qform(image.affine, 1)
    nibabel.save(image, name)


image = np.zeros((64, 64, 12), np.uint8)
image[8:56, 8:56, 1:11] = 80
save(image, (1, 1, 5), "image.nii")
for name, height in (("on", 20), ("between", 22)):
    lesion = np.zeros((64, 64, 60), np.uint8)
    lesion[20:24, 20:24, height] = 1
    save(lesion, (1, 1, 1), f"{name}.nii")
with open("page.html", "w") as page:
    page.write('<canvas id="view" width="600" height="600"></canvas>')

DRAW = """async name => {
    const {Niivue} = await import('/node_modules/@niivue/niivue/dist/index.js');
    const view = new Niivue({isResizeCanvas: false, crosshairWidth: 0, isOrientationTextVisible: false});
    await view.attachTo('view');
    await view.loadVolumes([
        {url: '/image.nii', cal_min: 0, cal_max: 160},
        {url: `/${name}.nii`, colormap: 'red', cal_min: 0, cal_max: 1},
    ]);
    view.setInterpolation(true);
    view.setSliceType(view.sliceTypeSagittal);
    view.scene.crosshairPos = view.mm2frac([21, 21, 20]);
    view.drawScene();
    const [width, height] = [view.gl.drawingBufferWidth, view.gl.drawingBufferHeight];
    const pixels = new Uint8Array(width * height * 4);
    view.gl.readPixels(0, 0, width, height, view.gl.RGBA, view.gl.UNSIGNED_BYTE, pixels);
    return pixels.filter((red, i) => i % 4 === 0 && red > 100 && pixels[i + 1] < 50).length;
}"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory="."))
threading.Thread(target=server.serve_forever, daemon=True).start()
with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=which("chromium"), args=["--no-sandbox"])
    seen = {}
    for name in ("on", "between"):
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{server.server_port}/page.html")
        seen[name] = page.evaluate(DRAW, name)
    print("NiiVue 0.69.0, playwright", version("playwright"), "Chromium", browser.version)
    browser.close()
print("red pixels of a lesion on a slice's centre, and between two: expected as many, seen", seen)
assert seen["on"] > 1000
assert seen["between"] == 0, "it behaves otherwise now"
END
