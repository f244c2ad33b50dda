# make test: everything that must hold. make unit: seconds, no database. make demo: see it run.
# make matrix: a telling part of the suite with each pair of tests/matrix.txt.
# make real: projects that others wrote, against docs/real-projects.md. make real-docs writes that page.
# make kubernetes: the manifests and the chart, with the real helm 3, helm 4 and kubectl.
# make chaos: runs race and are harmed; at any length. make fleet: 300 waiting runs. See docs/chaos.md.

SHELL := /bin/bash
.DELETE_ON_ERROR:

PYTHON ?= python3

# The lower bounds are tried with the oldest Python that is supported, where there is one. A name on
# PATH proves nothing: pyenv puts a python3.10 there that only says how to get one.
OLDEST_PYTHON ?= $(shell \
	for python in python3.10 "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/3.10.*/bin/python3.10 "$(PYTHON)"; do \
		"$$python" -c 'import sys; print(sys.executable)' 2> /dev/null && break; \
	done)

PIP_INSTALL := -m pip install --quiet --disable-pip-version-check --no-input
# Three on two cores: the tests wait for servers and processes most of the time.
PYTEST := -m pytest -n 3 --dist worksteal

# What tests/newest.txt brings does not work with the oldest dependencies. The others ask a server, the settings or the
# output, and neither Alembic nor SQLAlchemy: once is enough.
NEWEST_ONLY := $(addprefix tests/acceptance/test_,$(addsuffix .py,optuna frameworks bad_input output secrets waiting \
	two_keys where_session_locks_fail plan_file ledger_bad pipelines credentials zero_downtime rollback \
	kubernetes_page)) $(addprefix tests/integration/test_,$(addsuffix .py,beds chaos fleet galera galera_faults \
	half_done pgbouncer vanished_node))

# alembic+sqlalchemy. What env.py may do is tried on SQLite, and what a failure leaves on MariaDB, where most can go wrong.
PAIRS ?= $(shell sed -n 's/^\([0-9][^ ]*\) \([0-9][^ ]*\)$$/\1+\2/p' tests/matrix.txt)
MATRIX_TESTS := tests/acceptance/test_kinds.py tests/acceptance/test_own_tables.py tests/integration/test_truth.py \
	-k '(test_kinds and sqlite and not besides) or (test_own_tables and sqlite) or (test_truth and mariadb and template)'

# make chaos without a DATABASE: 20 rounds on each, nothing written.
ROUNDS ?= 20
SEED ?= 1
DATABASE ?=

.PHONY: test lint unit demo matrix real real-docs kubernetes chaos fleet venvs clean

test: lint venvs
	@echo "== newest: $$(.venv/bin/python --version)"
	.venv/bin/python $(PYTEST)
	@echo "== oldest: $$(.venv-oldest/bin/python --version)"
	.venv-oldest/bin/python $(PYTEST) $(addprefix --ignore=,$(NEWEST_ONLY))

matrix: $(PAIRS:%=.venv-matrix/%/made)
	@for pair in $(PAIRS); do \
		echo "== alembic+sqlalchemy $$pair"; \
		.venv-matrix/$$pair/bin/python $(PYTEST) $(MATRIX_TESTS) || exit; \
	done

lint: .venv/made
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

unit: .venv/made
	.venv/bin/python -m pytest tests/unit

demo: .venv-demo/made
	PATH="$(CURDIR)/.venv-demo/bin:$$PATH" ./examples/demo.sh

real: .venv/made
	.venv/bin/python -m tests.real.install
	rm -rf .venv-real/results
	.venv/bin/python $(PYTEST) tests/real
	.venv/bin/python -m tests.real.table

# One after the other, and several times, for the times.
real-docs: .venv/made
	.venv/bin/python -m tests.real.install
	rm -rf .venv-real/results
	REAL_PAIRS=3 .venv/bin/python -m pytest tests/real
	.venv/bin/python -m tests.real.table --write

kubernetes: .venv-kubernetes/made
	.venv-kubernetes/bin/python $(PYTEST) tests/kubernetes

chaos: .venv/made
ifeq ($(DATABASE),)
	@for database in mariadb postgresql sqlite; do \
		echo "== $$database"; \
		.venv/bin/python -m tests.chaos --database "$$database" --rounds "$(ROUNDS)" --seed "$(SEED)" || exit 1; \
	done
else
	.venv/bin/python -m tests.chaos --database "$(DATABASE)" --rounds "$(ROUNDS)" --seed "$(SEED)" --markdown docs/chaos.md
endif

fleet: .venv/made
	.venv/bin/python -m tests.chaos.fleet --markdown docs/chaos.md

venvs: .venv/made .venv-oldest/made

clean:
	rm -rf .venv .venv-oldest .venv-matrix .venv-real .venv-demo .venv-kubernetes .demo .servers .chaos build dist
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# "made" is the last thing written, so a virtual environment that was interrupted is made again.
define make_venv
	@$(1) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "Python 3.10 or later is needed, and $(1) is not: make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "== making $(@D) with $(1)"
	@$(1) -m venv --clear $(@D) \
		|| { echo "$(1) cannot make virtual environments. On Debian: apt-get install python3-venv" >&2; exit 1; }
endef

.venv/made: pyproject.toml tests/requirements.txt tests/newest.txt tests/lint.txt
	$(call make_venv,$(PYTHON))
	.venv/bin/python $(PIP_INSTALL) -e '.[postgresql]' \
		-r tests/requirements.txt -r tests/newest.txt -r tests/lint.txt
	@touch $@

# SQLAlchemy 1.4 does not know psycopg 3, which the program's own connection uses: env.py gets
# psycopg2. It also comes as source only, and is built as pip builds today on every Python.
.venv-oldest/made: pyproject.toml tests/requirements.txt tests/oldest.txt
	@$(OLDEST_PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] > (3, 10))' \
		|| echo "== no Python 3.10 here: the oldest dependencies are tried with $(OLDEST_PYTHON)"
	$(call make_venv,$(OLDEST_PYTHON))
	.venv-oldest/bin/python $(PIP_INSTALL) --use-pep517 -c tests/oldest.txt \
		-e '.[postgresql]' psycopg2-binary -r tests/requirements.txt
	@touch $@

# uv makes all of them in the time that pip takes for one.
.venv-matrix/%/made: pyproject.toml tests/requirements.txt tests/matrix.txt | .venv/made
	@echo "== making $(@D)"
	@.venv/bin/uv venv --quiet --clear --python $(PYTHON) $(@D)
	@.venv/bin/uv pip install --quiet --python $(@D)/bin/python -e '.[postgresql]' psycopg2-binary \
		-r tests/requirements.txt $(addprefix alembic==,$(firstword $(subst +, ,$*))) \
		$(addprefix sqlalchemy==,$(lastword $(subst +, ,$*)))
	@touch $@

.venv-kubernetes/made: pyproject.toml tests/requirements.txt tests/kubernetes/requirements.txt tests/kubernetes/tools.py
	$(call make_venv,$(PYTHON))
	.venv-kubernetes/bin/python $(PIP_INSTALL) -e . -r tests/kubernetes/requirements.txt
	.venv-kubernetes/bin/python -m tests.kubernetes.tools
	@touch $@

.venv-demo/made: pyproject.toml
	$(call make_venv,$(PYTHON))
	.venv-demo/bin/python $(PIP_INSTALL) -e '.[postgresql]'
	ln -s ../../entrypoint.sh .venv-demo/bin/entrypoint.sh
	@touch $@
