#!/bin/sh
# Make the pages in this folder again: docs/reports/make.sh MASKS [WORK]
#
# MASKS is the folder of the 30 lesion masks that README.md names, WORK is where copies and scores go. Run it with a
# medmamba on the search path, and without ipyniivue, whose code is not to be kept in this repository.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=${2:-$(mktemp -d)}
# The day on the pages, so that the same masks give the same bytes on any other.
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-1795824000}"
masks=$work/masks
# Copies, away from scans that may lie beside the originals: pages here show masks alone.
mkdir -p "$masks"
cp "$1"/*.nii.gz "$masks"

python -P "$here/../../examples/perturb_lesions.py" "$masks" "$work"
echo '{"channel_names": {"0": "FLAIR"}, "labels": {"background": 0, "lesion": 1}, "numTraining": 30, "file_ending": ".nii.gz"}' \
    > "$work/dataset.json"
for model in mild worse; do
    medmamba evaluate "$work/$model" "$masks" --labels "$work/dataset.json" --name "$model" \
        --metric dice --metric hd95 --metric nsd_1mm --metric lesions
done
medmamba report "$work/mild" "$work/worse" --name mild --name worse --output "$here/ms_lesions.html"

# Numbers in full precision, which a page is made with, are not kept here.
rm -f "$here"/*.html.json "$here"/*.html.csv

if grep -q 'id="niivue"' "$here"/*.html; then
    echo 'a page holds NiiVue, which is not to be kept here: uninstall ipyniivue and run this again' >&2
    exit 1
fi
