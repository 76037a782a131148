# Everything runs in .venv, which the first target that needs it creates. PYTHON may name another interpreter (3.11+).
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
IMAGES := himix_edge/assets/probe

.PHONY: demo test test-all fuzz lint types tree docs bench clean conformance apk test-android web web-dist test-web test-ios

demo: $(VENV)/demo.stamp
	@echo "nano was trained on easy-VQA: it knows one colored shape on a plain background. About any other picture it is wrong."
	$(BIN)/himix export --target onnx --quant int8 --out bundles/nano-onnx-int8
	$(BIN)/himix verify bundles/nano-onnx-int8
	@for image in $(wordlist 1,4,$(sort $(wildcard $(IMAGES)/*.png))); do \
		echo; echo "== $$image"; \
		$(BIN)/himix run --bundle bundles/nano-onnx-int8 --image $$image --prompt "Describe the image." \
			--prompt "What color is it?" --prompt "is there a circle?" || exit 1; \
	done
	@echo; echo "The bundle: bundles/nano-onnx-int8 (manifest.json says what is in it). The images: $(IMAGES)."
	@echo "Ask your own: $(BIN)/himix run --bundle bundles/nano-onnx-int8 --image PHOTO.png --chat"

# two processes, each of one thread: two that take all cores would wait for each other
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

test: $(VENV)/dev.stamp lint
	$(PYTEST) -m "not slow"

test-all: $(VENV)/dev.stamp lint
	$(PYTEST)

# damaged and hostile files for every parser; INPUTS over all of them
INPUTS ?= 100000
fuzz: $(VENV)/dev.stamp
	$(BIN)/python -m tests.fuzz --inputs $(INPUTS)

lint: $(VENV)/dev.stamp types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy and mkdocstrings find packages by folder; the link tree gives export/ and runtimes/ the place they are installed at
tree:
	@rm -rf build/types && mkdir -p build/types/himix_edge
	@ln -s $(CURDIR)/himix_edge/* build/types/himix_edge/
	@ln -s $(CURDIR)/export $(CURDIR)/runtimes build/types/himix_edge/

types: $(VENV)/dev.stamp tree
	cd build/types && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache -p himix_edge

# the documentation's site in build/site; broken links and unknown names end it
docs: $(VENV)/docs.stamp tree
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

bench: $(VENV)/dev.stamp
	$(BIN)/python -m benchmarks.nano

# what a client in any language has to get right, in build/conformance; CLIENT_BUNDLES are those that the client runs
CLIENT_BUNDLES ?= bundles/nano-onnx-int8
conformance: $(VENV)/dev.stamp $(CLIENT_BUNDLES:%=%/manifest.json)
	$(BIN)/python -m conformance --out build/conformance $(CLIENT_BUNDLES)

# Android: signed APKs from packages alone
apk: bundles/nano-onnx-int8/manifest.json
	$(BIN)/python android_demo/build_apk.py

# the APK's own code and x86-64 libraries, on this machine's Java
test-android: $(VENV)/dev.stamp apk bundles/nano-executorch-int8/manifest.json
	$(BIN)/python android_demo/test_jvm.py --apk build/android/himix-demo.apk --executorch bundles/nano-executorch-int8

bundles/nano-executorch-int8/manifest.json: | $(VENV)/dev.stamp
	$(BIN)/himix export --target executorch --quant int8 --out $(@D)

bundles/nano-onnx-int8/manifest.json: | $(VENV)/demo.stamp
	$(BIN)/himix export --target onnx --quant int8 --out $(@D)

# Browser: the portable bundle in onnxruntime-web; PORT and BUNDLES may name others
PORT ?= 8000
PORTABLE := $(foreach quant,int8 int4 none,bundles/nano-onnx_portable-$(quant))
BUNDLES ?= $(firstword $(PORTABLE))
web: $(BUNDLES:%=%/manifest.json) web_demo/node_modules/stamp
	$(BIN)/python web_demo/serve.py $(BUNDLES) --port $(PORT)

# a folder for any static host, which works offline once it was opened
web-dist: $(BUNDLES:%=%/manifest.json) web_demo/node_modules/stamp
	$(BIN)/python web_demo/dist.py $(BUNDLES) --out build/web

test-web: $(VENV)/dev.stamp $(PORTABLE:%=%/manifest.json) web_demo/node_modules/stamp
	web_demo/tests/run.sh $(BIN)/python $(PORTABLE)

bundles/nano-onnx_portable-%/manifest.json: | $(VENV)/demo.stamp
	$(BIN)/himix export --target onnx_portable --quant $* --out $(@D)

web_demo/node_modules/stamp: web_demo/package.json
	@command -v npm > /dev/null || { echo "npm is missing; install Node.js 20 or newer"; exit 2; }
	cd web_demo && npm install --no-package-lock --silent
	@touch $@

clean:
	rm -rf build bundles .mypy_cache .pytest_cache .ruff_cache

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

# the exporter and runtime of one target
$(VENV)/demo.stamp: pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(BIN)/pip install -q -c constraints.txt -e '.[onnx]'
	@touch $@

$(VENV)/dev.stamp: pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/demo.stamp

$(VENV)/docs.stamp: pyproject.toml constraints.txt | $(VENV)/dev.stamp
	$(BIN)/pip install -q -c constraints.txt -e '.[docs]'
	@touch $@

# the iOS demo's Swift package on Linux or macOS; installs Swift into build/swift where there is none (root, 3 GB)
test-ios: $(VENV)/dev.stamp
	ios_demo/testing/run.sh
