#!/bin/sh
# Builds the studio and finds the tools of its tests. A missing tool is printed with its remedy.
# usage: web.sh install|build|browser ROOT [optional]
# With `optional`, a missing Node.js is a warning, and the page is not built.
set -eu
step=$1
root=$2
optional=${3:-}
web=$root/web

without() { # print a missing tool and its remedy; an error unless it is optional
	echo "WITHOUT $1: $2" >&2
	[ -n "$optional" ] && exit 0
	exit 1
}

need_node() {
	command -v npm >/dev/null && command -v node >/dev/null || without "Node.js" \
		"The studio, the web page of backline serve, is not built from this checkout; everything else works. Install Node.js 20.19 or newer with npm (Debian or Ubuntu: apt-get install nodejs npm, or https://nodejs.org), then: make web. A released wheel contains the page and needs no Node.js."
	node -e 'const [a, b] = process.versions.node.split(".").map(Number); process.exit(a > 20 || (a === 20 && b >= 19) ? 0 : 1)' ||
		without "Node.js 20.19" "$(command -v node) is $(node --version), but the studio needs 20.19 or newer. Install that, then: make web."
}

install() {
	cmp -s "$web/package-lock.json" "$web/node_modules/.installed.json" && return
	echo "Fetching the studio's packages …" >&2
	(cd "$web" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2) || without "the studio's packages" \
		"npm could not fetch them. Check the network and 'npm config get registry', then run make again."
	cp "$web/package-lock.json" "$web/node_modules/.installed.json"
}

find_browser() {
	[ -n "${CHROMIUM:-}" ] && [ -x "$CHROMIUM" ] && return
	command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null
}

get_browser() {
	find_browser && return
	[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
	echo "Fetching Chromium …" >&2
	apt-cache show chromium >/dev/null 2>&1 || apt-get -qq update || return 1
	# Outdated package lists name removed files, hence the second try.
	DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends chromium >/dev/null 2>&1 ||
		{ apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends chromium >/dev/null; }
}

# The page of the API: the released Swagger UI, copied beside web/public/docs, so that /docs needs no network.
copy_docs() {
	for file in swagger-ui-bundle.js swagger-ui-bundle.js.LICENSE.txt swagger-ui.css LICENSE NOTICE; do
		cp "node_modules/swagger-ui-dist/$file" "$root/src/backline/server/static/docs/"
	done
}

case $step in
install) need_node && install ;;
build) need_node && install && cd "$web" && npm run --silent build >&2 && copy_docs ;;
browser) get_browser || without "Chromium" \
	"the tests in tests/e2e are skipped. Debian or Ubuntu, as root: apt-get install chromium; elsewhere install Chromium or Chrome, or name one: CHROMIUM=/path/to/it make test." ;;
*) echo "usage: web.sh install|build|browser ROOT [optional]" >&2 && exit 2 ;;
esac
