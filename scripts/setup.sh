#!/bin/sh
# Makes the virtual environment: finds a Python, says what is missing where one is, installs pinned.
# usage: setup.sh ROOT VENV
set -eu
root=$1
venv=$2

usable() { # a Python 3.11+ that can make a virtual environment
	"$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

new_enough() {
	"$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
	for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11 python3.14 python; do
		if usable "$candidate"; then
			command -v "$candidate"
			return
		fi
	done
	for candidate in python3 python3.13 python3.12 python3.11 python3.14; do
		if new_enough "$candidate"; then
			echo "missing: the venv module of $candidate. On Debian or Ubuntu: apt-get install python3-venv" >&2
			exit 1
		fi
	done
	echo "missing: Python 3.11 or newer. Install it (Debian: apt-get install python3 python3-venv), or name one: make PYTHON=/path/to/python3 run" >&2
	exit 1
}

if ! [ -x "$venv/bin/python" ] || ! new_enough "$venv/bin/python"; then
	python=$(find_python)
	echo "Setting up $venv with $python …" >&2
	rm -rf "$venv"
	"$python" -m venv "$venv"
else
	echo "Bringing $venv up to date …" >&2
fi

pip() { "$venv/bin/python" -m pip --disable-pip-version-check --quiet "$@"; }

pip install "pip>=25.1" # the first that reads dependency groups
if ! pip install --constraint "$root/constraints.txt" --editable "$root" --group "$root/pyproject.toml:dev"; then
	echo "missing: the packages above could not be had from PyPI. Check the network or PIP_INDEX_URL, then run make again." >&2
	exit 1
fi
