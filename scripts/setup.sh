#!/bin/sh
# Creates the virtual environment: finds a Python and installs pinned packages, or names what is missing.
# usage: setup.sh ROOT VENV
set -eu
root=$1
venv=$2

missing() {
	echo "missing: $1" >&2
	exit 1
}

new_enough() {
	"$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

usable() { # a Python 3.11+ that can create a virtual environment
	new_enough "$1" && "$1" -c 'import venv, ensurepip' >/dev/null 2>&1
}

find_python() {
	if [ -n "${PYTHON:-}" ]; then
		usable "$PYTHON" || missing "Python 3.11 or newer with the modules venv and ensurepip at PYTHON=$PYTHON."
		command -v "$PYTHON"
		return
	fi
	candidates="python3 python3.13 python3.12 python3.11 python3.14 python"
	for candidate in $candidates; do
		if usable "$candidate"; then
			command -v "$candidate"
			return
		fi
	done
	for candidate in $candidates; do
		if new_enough "$candidate"; then
			missing "the venv module of $candidate. On Debian or Ubuntu: apt-get install python3-venv"
		fi
	done
	missing "Python 3.11 or newer. Install it (Debian: apt-get install python3 python3-venv), or name one: make PYTHON=/path/to/python3 run"
}

[ -w "$root" ] || missing "write permission in $root, the folder of the virtual environment. Clone into your own folder."
if ! [ -x "$venv/bin/python" ] || ! new_enough "$venv/bin/python"; then
	python=$(find_python)
	echo "Setting up $venv with $python; this takes a minute …" >&2
	rm -rf "$venv"
	"$python" -m venv "$venv"
else
	echo "Bringing $venv up to date …" >&2
fi

pip() { "$venv/bin/python" -m pip --disable-pip-version-check --quiet --retries 2 "$@"; }

# pip 25.1 is the first version that reads dependency groups.
if ! pip install "pip>=25.1" ||
	! pip install --constraint "$root/constraints.txt" --editable "$root[all]" --group "$root/pyproject.toml:dev"; then
	missing "the packages named above. Check the network, PIP_INDEX_URL and the space on the disk, then run make again."
fi
