#!/bin/sh
# Run the browser demo's tests: run.sh PYTHON BUNDLE... Installs Debian's Chromium if there is none and this is root.
set -e
cd "$(dirname "$0")/../.."
python=$PWD/$1
shift
: "${CHROMIUM:=$(command -v chromium || true)}"
if [ -z "$CHROMIUM" ]; then
	if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
		echo "the tests need Chromium: apt-get install chromium (as root), or set CHROMIUM to a browser" >&2
		exit 2
	fi
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium > /dev/null
	CHROMIUM=$(command -v chromium)
fi
made=$PWD/build/web-tests
mkdir -p "$made"
"$python" -m conformance --out "$made/suite" "$@"
zip() { # FOLDER FILE
	rm -f "$2"
	(cd "$(dirname "$1")" && "$python" -m zipfile -c "$2" "$(basename "$1")")
}
zip "$1" "$made/good.zip"
zip "$made/suite/hostile/bundles/flipped-byte" "$made/flipped-byte.zip"
head -c -1000 "$made/good.zip" > "$made/truncated.zip"
export CHROMIUM PYTHON="$python" WEB_FIXTURES="$made" WEB_BUNDLES=""
for bundle in "$@"; do WEB_BUNDLES="$WEB_BUNDLES $PWD/$bundle"; done
cd web_demo
node --test --test-concurrency=1 --test-reporter=spec tests/
echo "Screenshots: build/web-tests/screens"
