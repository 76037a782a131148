#!/bin/bash
# make test-ios: HimixKit's tests against what Python computes from the same bundle, and a check of everything that
# only Apple's systems can run. Ends with "N passed, N failed".
set -uo pipefail
cd "$(dirname "$0")/../.."
export OMP_NUM_THREADS=1 # the interpreter's many small steps; two processes of it share the cores
python=.venv/bin/python
bundle=build/ios/nano-coreml-int8
suite=build/ios/suite
engine=build/ios/engine
passed=0
failed=0

check() { # NAME COMMAND...: one check, its output shown if it fails
    local name=$1
    shift
    if output=$("$@" 2>&1); then
        passed=$((passed + 1))
        echo "ok    $name"
    else
        failed=$((failed + 1))
        printf 'FAIL  %s\n%s\n' "$name" "$output"
    fi
}

in_swift() { ios_demo/testing/swift.sh "$1"; }

in_swift 'swift --version 2> /dev/null | head -n 1' || exit 2
[ -f $bundle/manifest.json ] || .venv/bin/himix export --target coreml --quant int8 --out $bundle || exit
echo "Asking Python ..."
$python -m conformance --smollm2 --out $suite $bundle || exit

rm -rf $engine
mkdir -p $engine/exchange
mkfifo $engine/requests $engine/replies
$python ios_demo/testing/engine_server.py $bundle $engine &
server=$!
until [ -e $engine/ready ]; do
    kill -0 $server 2> /dev/null || exit 2
    sleep 0.2
done
echo "Compiling and testing HimixKit ..."
log=build/ios/swift-test.log
in_swift "HIMIX_BUNDLE=\$PWD/$bundle HIMIX_SUITE=\$PWD/$suite \
    HIMIX_ENGINE=\$PWD/$engine swift test --package-path ios_demo/HimixKit --scratch-path build/ios/scratch" > $log 2>&1
status=$?
kill $server 2> /dev/null
grep -E "error:|^Test Case .* (passed|failed)" $log | sed -E "s/^Test Case '(.*)' (passed|failed).*/\2 \1/"
passed=$((passed + $(grep -cE "^Test Case .* passed" $log)))
failed=$((failed + $(grep -cE "^Test Case .* failed" $log)))
if [ $status != 0 ] && ! grep -qE "^Test Case .* failed" $log; then
    failed=$((failed + 1))
    tail -n 40 $log
fi

check "what only Apple's systems run type-checks against Stubs/" in_swift ios_demo/testing/typecheck.sh
check "swift format lint" in_swift \
    'swift format lint --strict --recursive --configuration ios_demo/.swift-format \
        ios_demo/HimixKit ios_demo/HimixDemo' # Stubs/ has Apple's names
check "the Xcode project is complete" $python ios_demo/testing/project_check.py

echo "$passed passed, $failed failed"
[ $failed = 0 ] && [ $passed -gt 0 ]
