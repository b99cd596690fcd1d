#!/usr/bin/env bash
# Orthanc answers that a corrected object was stored, and keeps the first.
#
# Guessed: a segmentation that is sent again under its UID, corrected, takes the place of the first, or is refused.
# Happens: the answer to C-STORE is success (0x0000), and what Orthanc gives back is still the first: OverwriteInstances is
# false unless it is configured. Whoever corrects a mask must give it a new SOP instance UID, or delete the old one.
#
# Orthanc 1.10.1 (Debian 12), pynetdicom 3.0.4, pydicom 3.0.2, NumPy 2.4.6, November 2026
# Needs Orthanc (Debian's package `orthanc`) on the PATH.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet pynetdicom==3.0.4 pydicom==3.0.2 numpy==2.4.6
cp "$here/dicom_input.py" .
venv/bin/python - <<'END'
import io
import json
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import dicom_input
import numpy as np
import pydicom
from pynetdicom import AE

ports = []
for _ in range(2):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        ports.append(listener.getsockname()[1])
http, dicom = ports
settings = {"StorageDirectory": "db", "IndexDirectory": "db", "HttpPort": http, "DicomPort": dicom, "Plugins": []}
Path("settings.json").write_text(json.dumps(settings))
print(subprocess.run(["Orthanc", "--version"], capture_output=True, text=True).stdout.splitlines()[0])
with open("log.txt", "wb") as log:
    server = subprocess.Popen(["Orthanc", "settings.json"], stdout=log, stderr=log)


def ask(path, body=None):
    return urllib.request.urlopen(f"http://127.0.0.1:{http}{path}", body, timeout=10).read()


try:
    for _ in range(200):
        try:
            ask("/system")
            break
        except OSError:
            time.sleep(0.1)
    status = []
    for value in (100, 200):
        [image] = dicom_input.slices(Path(f"ct{value}"), np.full((1, 16, 16), value), [(0, 0, 0)])
        sender = AE("SCRIPT")
        sender.add_requested_context(image.SOPClassUID, image.file_meta.TransferSyntaxUID)
        association = sender.associate("127.0.0.1", dicom)
        status.append(association.send_c_store(image).Status)
        association.release()
    [found] = json.loads(ask("/instances"))
    stored = pydicom.dcmread(io.BytesIO(ask(f"/instances/{found}/file"))).pixel_array
finally:
    server.terminate()
    server.wait()
print(f"sent 100, then 200 under the same UID: answers {[hex(s) for s in status]}, given back {np.unique(stored)}")
assert status == [0, 0]
assert (stored == 100).all(), "it behaves otherwise now"
END
