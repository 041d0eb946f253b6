# Everything sets itself up in .venv; only Python ≥ 3.11 and make are needed.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo test interop lint docs check clean
help:  ## what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sfumato needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: .venv/ready  ## train on generated scenes, score them, open runs/demo/report.html
	$(BIN)/sfumato demo

# One thread each: two workers that want two threads each spend most of their time waiting for one another.
test: .venv/ready  ## the whole test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

INTEROP_PINS := -c constraints.txt -c constraints-interop.txt
.venv-interop/ready: pyproject.toml constraints.txt constraints-interop.txt
	$(PYTHON) -m venv .venv-interop
	.venv-interop/bin/pip install --quiet --disable-pip-version-check $(INTEROP_PINS) torch==2.13.0
	.venv-interop/bin/pip install --quiet --disable-pip-version-check $(INTEROP_PINS) -e '.[train,report,geometry]' pytest pytest-xdist \
	    torchvision timm segmentation-models-pytorch transformers scipy mapie einops loguru 'jsonargparse[signatures]' requests \
	    onnx onnxscript onnxruntime fastapi 'uvicorn[standard]' python-multipart prometheus-client 'ray[data]' \
	    grpcio schemathesis
	# Without what they declare: it excludes pinned versions of OpenCV, requests and greenlet, with which they work.
	.venv-interop/bin/pip install --quiet --disable-pip-version-check --no-deps $(INTEROP_PINS) ptlflow \
	    tritonclient geventhttpclient gevent greenlet zope.event zope.interface brotli python-rapidjson
	@touch $@

interop: .venv-interop/ready  ## every method on networks of torchvision, timm, smp, transformers and ptlflow; bounds of MAPIE; tritonclient, Ray, schemathesis
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 .venv-interop/bin/python -m pytest interop -n 2 --dist worksteal

lint: .venv/ready  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

docs: .venv/ready  ## build the documentation into site/
	OMP_NUM_THREADS=1 PYTHONPATH=docs/learn NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

check: lint test docs interop  ## all that CI checks

clean:  ## remove what was made, runs excepted
	rm -rf .venv .venv-interop site .pytest_cache .ruff_cache .hypothesis
