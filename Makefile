PYTHON ?= python3
OUT ?= out
ANSWERS ?=

MAKEFLAGS += --no-print-directory
# Where hooks and tests find uv
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: help service test test-clusters lint benchmark dashboard programs image-programs \
	cluster-programs
help: ## Show the commands
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 15

# `out` is scratch and made anew; a service in a folder of your own is never overwritten.
service: .venv/service.stamp ## Make a service and test it: [OUT=DIR] [ANSWERS="database=mysql"]
	@$(if $(filter out,$(OUT)),rm -rf out)
	@.venv/bin/cookiecutter . --no-input --default-config --output-dir "$(OUT)" $(ANSWERS)

test: .venv/dev.stamp programs image-programs ## Run all tests of the template, and of the services it makes
	.venv/bin/pytest -n 2

test-clusters: .venv/dev.stamp programs cluster-programs ## Test on PgBouncer, replicas and Galera
	.venv/bin/pytest -s tests/under_clusters.py

lint: .venv/dev.stamp ## Check style, format and types of hooks, tests and benchmarks
	.venv/bin/ruff check hooks tests benchmarks
	.venv/bin/ruff format --check hooks tests benchmarks
	.venv/bin/mypy
	.venv/bin/zizmor --quiet --offline .github

benchmark: .venv/service.stamp programs ## Measure services, and write the README's tables: [ARGS=--help]
	@.venv/bin/python benchmarks/run.py $(ARGS)

dashboard: .venv/service.stamp programs ## Draw the dashboard from a real run: [ARGS=--help]
	@.venv/bin/python benchmarks/dashboard.py $(ARGS)

# The two groups of pyproject.toml: `service` is what is needed to make a service.
.venv/%.stamp: pyproject.toml | .venv/bin/uv
	.venv/bin/uv pip install --quiet --python .venv --group $*
	@touch $@

.venv/bin/uv:
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check uv

# No package index ships these, so they come from the system: MariaDB's server, a PostgreSQL that
# can encrypt, openssl, wrk, and Prometheus with its promtool, which Debian would also start.
programs:
	@PATH="$$PATH:/usr/sbin:/usr/libexec:/usr/local/sbin:$$(echo /usr/lib/postgresql/*/bin | tr ' ' :)"; \
	if { command -v mariadbd || command -v mysqld; } && command -v wrk && \
		command -v postgres && command -v openssl && \
		command -v prometheus && command -v promtool; then exit; fi >/dev/null; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		had=$$(command -v prometheus); \
		apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y \
			--no-install-recommends mariadb-server-core mariadb-client-core postgresql openssl wrk \
			prometheus || exit; \
		[ "$$had" ] || ! command -v systemctl || systemctl disable --now prometheus || true; \
	else \
		echo "The tests need wrk, openssl, prometheus and promtool, and servers of PostgreSQL and of" \
			"MariaDB or MySQL. None of them need run." >&2; \
		echo "Debian, Ubuntu: sudo apt-get install --no-install-recommends" \
			"mariadb-server-core mariadb-client-core postgresql openssl wrk prometheus" >&2; \
		echo "Fedora: sudo dnf install mariadb-server postgresql-server openssl wrk" \
			"golang-github-prometheus   macOS: brew install mariadb postgresql openssl wrk" \
			"prometheus" >&2; \
		exit 1; \
	fi

# What builds and runs the image; where it is missing, a test says so.
image-programs:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get && \
		! { command -v podman && command -v debootstrap && command -v runc; }; then \
		apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y \
			--no-install-recommends podman crun runc debootstrap; \
	fi >/dev/null || true

# What is still missing after this, such as a PgBouncer that is new enough, the tests name.
cluster-programs:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get && [ ! -e /usr/lib/galera/libgalera_smm.so ]; then \
		DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends galera-4; \
	fi >/dev/null || true
