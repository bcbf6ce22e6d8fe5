# make serve   serve the checkpoints in checkpoints/   [HOST=127.0.0.1] [PORT=8000] [MODEL=mnist-hyperdraw]
# make test    run the tests
# make train   train a recipe                          [RECIPE=digits-hypergan] [OUT=checkpoints/RECIPE] [ARGS=…]
# make bench   measure how fast it is here             [ARGS=…]; bench-check fails if that got worse
# make cross-check   attack a model with another toolbox, too [MODEL=mnist-hyperdraw] [ARGS=…]
# make conformance   let others' tools use the service: Schemathesis, TypeScript, Java, k6, LoadGen [ARGS="--only k6"]
# make faults  overload, kill, reload and soak the service, which takes half an hour
# make mutants change the code a little, again and again, and tell which changes no test notices
# make lint    check style and types
# make wheels  build both distributions into dist/; check-wheels installs and tries them in environments of their own
# make check-ray   try the service on Ray Serve
# make proto   compile the messages of gRPC
# make screenshots   take the guides' pictures, with Debian's chromium and chromium-driver
#
# Each installs what it needs into .venv, at the versions in requirements.lock, and does nothing twice.
# TORCH chooses the build of PyTorch, cpu or cuda (the default where there is an NVIDIA driver). PYTHON chooses the
# interpreter.

PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000
MODEL ?= mnist-hyperdraw
RECIPE ?= digits-hypergan
OUT ?= checkpoints/$(RECIPE)
ARGS ?=
TORCH ?= $(if $(shell command -v nvidia-smi),cuda,cpu)

BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
INSTALL := $(PIP) install --constraint requirements.lock
ART_INSTALL := benchmarks/environments/art/bin/python -m pip --quiet --disable-pip-version-check install --constraint requirements.lock
TORCH_INDEX = $(if $(filter cpu,$(TORCH)),--retries 1 --extra-index-url https://download.pytorch.org/whl/cpu)

.PHONY: serve test train bench bench-check cross-check conformance faults mutants lint wheels check-wheels check-ray proto screenshots lock clean

serve: .venv/serve.installed
	$(BIN)/hyperdraw-serve --host $(HOST) --port $(PORT) --default-model $(MODEL)

test: .venv/dev.installed # which starts many processes, and each would compile everything again
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses 4 --dist loadfile $(ARGS)

train: .venv/train.installed
	$(BIN)/hyperdraw-train $(RECIPE) --out $(OUT) $(ARGS)

bench: .venv/bench.installed
	$(BIN)/python -m benchmarks $(ARGS)

bench-check: .venv/bench.installed
	$(BIN)/python -m benchmarks --check $(ARGS)

cross-check: benchmarks/environments/art/installed
	benchmarks/environments/art/bin/python -m benchmarks.peers.art_attack checkpoints/$(MODEL) --out experiments/attacks $(ARGS)

conformance: .venv/dev.installed
	$(BIN)/python -m conformance $(ARGS)

faults: .venv/dev.installed
	$(BIN)/python -m pytest -m fault -s $(ARGS)

mutants: .venv/mutants.installed
	mkdir -p mutants/client # as Python forgets folders of its path that are not there when it starts
	PYTHONPATH=$(CURDIR)/mutants:$(CURDIR)/mutants/client $(BIN)/mutmut run --max-children 2 $(ARGS)
	$(BIN)/mutmut results

lint: .venv/dev.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

wheels: .venv/torch.installed
	rm -rf build client/build dist # or wheels would hold what is no longer there
	$(PIP) wheel --no-deps --wheel-dir dist ./client .

check-wheels: .venv/dev.installed wheels
	$(BIN)/python -m pytest -m wheels tests/test_wheels.py $(ARGS)

check-ray: .venv/dev.installed .venv/ray.installed
	$(BIN)/python -m pytest -m ray tests/test_ray.py $(ARGS)

screenshots: .venv/dev.installed
	$(BIN)/python -m tests.screenshots

proto: # by a compiler that has an environment of its own, as its protobuf is another one
	$(PYTHON) -m venv --clear build/protoc
	build/protoc/bin/python -m pip install --quiet --disable-pip-version-check grpcio-tools==1.85.1
	build/protoc/bin/python -m grpc_tools.protoc --proto_path=service/open_inference \
		--descriptor_set_out=service/open_inference/inference.binpb inference.proto

lock: .venv/dev.installed
	$(INSTALL) uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --all-extras --no-header \
		--output-file requirements.lock pyproject.toml client/pyproject.toml

clean:
	rm -rf .venv build client/build dist

.venv/torch.installed: requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hyperdraw needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv .venv
	$(INSTALL) --no-deps $(TORCH_INDEX) torch
	touch $@

.venv/%.installed: .venv/torch.installed pyproject.toml client/pyproject.toml
	$(INSTALL) --editable ./client --editable '.[$*]'
	touch $@

benchmarks/environments/art/installed: benchmarks/peers/art_requirements.txt requirements.lock
	$(PYTHON) -m venv benchmarks/environments/art
	$(ART_INSTALL) --no-deps $(TORCH_INDEX) torch
	$(ART_INSTALL) --requirement benchmarks/peers/art_requirements.txt
	touch $@
