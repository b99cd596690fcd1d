#!/bin/sh
# Make registration.html again: docs/reports/make_registration.sh RESULTS
#
# RESULTS is the folder of `benchmarks/registration_mrct.py table`, which README.md tells about. Run it with a medmamba
# on the search path.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# The day on the page, so that the same results give the same bytes on any other.
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-1795824000}"
cd "$1/methods"
set -- 'MambaMorph' 'refine 30, MIND' 'ANTs SyNOnly'
printf '{"channel_names": {"0": "MR"}, "labels": {"background": 0, "tumour": 1}, "numTraining": 1, "file_ending": ".nii.gz"}' \
    > dataset.json
for method in "$@"; do
    medmamba evaluate "$method" --name "$method" --labels dataset.json
done
medmamba report "$@" --title 'MR and CT against known deformations' --output "$here/registration.html"

# Numbers in full precision, which a page is made with, are not kept here.
rm -f "$here"/*.html.json "$here"/*.html.csv
