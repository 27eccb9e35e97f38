# One word per chore. `make run` and `make test` set up what they need by themselves.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
COMPOSE ?= $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)
ARGS ?=

.PHONY: help setup run test check describe picture pictures bench monkey clean local.run tests.run docker.run docker.run.db docker.run.migrate docker.down migrate.up

help:  ## say what there is
	@grep -hE '^[a-z.]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 22

setup: .venv/.ready  ## prepare .venv from uv.lock

# A python that answers: a name on PATH may be a shim of a version that is not installed.
.venv/.ready: pyproject.toml uv.lock
	@python=$$(for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	    $$p -c 'import sys; sys.version_info >= (3, 11) or sys.exit(1); print(sys.executable)' 2>/dev/null && break; done || true); \
	[ -n "$$python" ] || { echo 'Bashd needs Python 3.11 or newer on PATH.' >&2; exit 1; }; \
	uv=$$(command -v uv || true); \
	if [ -z "$$uv" ]; then \
	    [ -x .venv-uv/bin/uv ] || { "$$python" -m venv .venv-uv && .venv-uv/bin/pip install --quiet uv==0.13.9; }; \
	    uv=.venv-uv/bin/uv; \
	fi; \
	"$$uv" sync --frozen --quiet --python "$$python"
	@touch $@

run: setup  ## set up, then start Bashd on 127.0.0.1:8080 with its own PostgreSQL
	@exec .venv/bin/bashd serve $(ARGS)

test: setup  ## set up, then run all tests
	@.venv/bin/pytest $(ARGS)

.PHONY: test.container
test.container: setup  ## build the image and test it in a container engine; without one, say so
	@if timeout 30 docker version >/dev/null 2>&1; then .venv/bin/pytest -m container $(ARGS); \
	else echo 'No container engine answers (docker version), so the image is not tested.'; fi

check: setup  ## format, lint, types, import contract
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-cache

pictures: setup  ## take the pictures in the README anew, from the real page
	@BASHD_PICTURES=1 .venv/bin/pytest -q tests/test_page.py -k pictures

# With pip-audit as uv.lock has it. Asks the package index for what is known of each version, so it is no part of check.
.PHONY: audit
audit: setup  ## known vulnerabilities of what uv.lock names
	@uv=$$(command -v uv || echo .venv-uv/bin/uv); \
	"$$uv" run --frozen --isolated --only-group audit pip-audit --strict --disable-pip --require-hashes \
	    --requirement <("$$uv" export --quiet --frozen --all-groups --no-emit-project) $(ARGS)

describe: setup  ## write docs/api/ anew, from what the routes declare
	@.venv/bin/python -m api.describe

picture: setup  ## draw the command line's picture anew, from a real session
	@.venv/bin/python -m docs.cli.picture

bench: setup  ## measure everything and write docs/performance.md (ARGS="--only latency", ARGS=--quick)
	@.venv/bin/python -m bench.all $(ARGS)

monkey: setup  ## beat a Bashd for 20 minutes and check what it recorded (ARGS="--minutes 1 --seed 7")
	@.venv/bin/python -m bench.monkey $(ARGS)

clean:  ## remove what setup and the checks made
	rm -rf .venv .venv-uv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

migrate.up: setup  ## bring the database's schema up to date
	@.venv/bin/bashd migrate

local.run: run  ## the same as run

tests.run: test  ## the same as test

# Where the secrets of docker-compose.yml lie.
export SECRETS_DIR ?= ./.secrets

.PHONY: docker.secrets
docker.secrets:  ## make the secrets of docker-compose.yml, unless they are there
	@if ! [ -e "$$SECRETS_DIR/database_url" ]; then \
	    install -d -m 0700 "$$SECRETS_DIR"; cd "$$SECRETS_DIR"; umask 022; \
	    secret() { head -c 32 /dev/urandom | od -An -vtx1 | tr -d ' \n'; }; \
	    [ -e token ] || secret >token; \
	    [ -e postgres_password ] || secret >postgres_password; \
	    echo "postgresql://bashd:$$(<postgres_password)@postgres:5432/bashd" >database_url; \
	fi

docker.run: docker.secrets  ## build and start Bashd and PostgreSQL in containers
	$(COMPOSE) up --build --detach

docker.run.db: docker.secrets  ## start only PostgreSQL in a container
	$(COMPOSE) up --detach postgres

docker.run.migrate: docker.secrets  ## bring the schema of the database in the container up to date
	$(COMPOSE) run --rm --entrypoint bashd bashd migrate

docker.down:  ## stop and remove the containers
	$(COMPOSE) down
