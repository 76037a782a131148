#!/bin/sh
# Run the browser demo's tests: run.sh PYTHON BUNDLE... Chromium, Firefox and WebKit are Debian's; as root, what is
# missing is installed.
set -e
cd "$(dirname "$0")/../.."
python=$PWD/$1
shift
need() { # VARIABLE PATH PACKAGE
	[ -x "$2" ] && return
	if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
		echo "the tests need $2: apt-get install $3 (as root), or set $1 to where it is" >&2
		exit 2
	fi
	packages="$packages $3"
}
: "${CHROMIUM:=/usr/bin/chromium}" "${FIREFOX:=/usr/bin/firefox-esr}" "${WEBKIT_DRIVER:=/usr/bin/WebKitWebDriver}"
: "${XVFB_RUN:=/usr/bin/xvfb-run}" # WebKit's MiniBrowser has no headless mode
packages=""
need CHROMIUM "$CHROMIUM" chromium
need FIREFOX "$FIREFOX" firefox-esr
need WEBKIT_DRIVER "$WEBKIT_DRIVER" webkit2gtk-driver
need XVFB_RUN "$XVFB_RUN" "xvfb xauth"
if [ -n "$packages" ]; then
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages > /dev/null
fi
made=$PWD/build/web-tests
mkdir -p "$made"
"$python" -m conformance --out "$made/suite" "$@"
"$python" web_demo/tests/odd_pngs.py "$made/odd-pngs"
zip() { # FOLDER FILE
	rm -f "$2"
	(cd "$(dirname "$1")" && "$python" -m zipfile -c "$2" "$(basename "$1")")
}
zip "$1" "$made/good.zip"
zip "$made/suite/hostile/bundles/flipped-byte" "$made/flipped-byte.zip"
head -c -1000 "$made/good.zip" > "$made/truncated.zip"
export CHROMIUM FIREFOX WEBKIT_DRIVER PYTHON="$python" WEB_FIXTURES="$made" WEB_BUNDLES=""
for bundle in "$@"; do WEB_BUNDLES="$WEB_BUNDLES $PWD/$bundle"; done
cd web_demo
"$XVFB_RUN" -a node --test --test-concurrency=1 --test-reporter=spec tests/
echo "Screenshots: build/web-tests/screens"
