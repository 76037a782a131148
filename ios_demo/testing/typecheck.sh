#!/bin/bash
# Type-checks what only Apple's systems can run (Core ML engine, app, Core ML tests) against Stubs/: the signatures of
# Apple's frameworks that it uses. Run by run.sh where `swift` is, in the project's root.
set -euo pipefail
modules=build/ios/stubs
core=$(find build/ios/scratch -path '*debug/Modules/HimixCore.swiftmodule' | head -n 1)
[ -n "$core" ] || { echo "HimixCore is not built"; exit 1; }
flags=(-I "$modules" -I "$(dirname "$core")" -I ios_demo/Stubs/Darwin -parse-as-library)
strict=(-swift-version 6 -warnings-as-errors)
kit=ios_demo/HimixKit/Sources/HimixCoreML
rm -rf $modules
mkdir -p $modules
for stub in CoreGraphics ImageIO CoreVideo CoreML UniformTypeIdentifiers UIKit SwiftUI PhotosUI; do
    swiftc -emit-module -swift-version 5 -suppress-warnings -module-name $stub "${flags[@]}" \
        -emit-module-path $modules/$stub.swiftmodule ios_demo/Stubs/$stub.swift
done
swiftc -emit-module "${strict[@]}" -module-name HimixCoreML "${flags[@]}" \
    -emit-module-path $modules/HimixCoreML.swiftmodule $kit/*.swift
swiftc -typecheck "${strict[@]}" -module-name HimixDemo "${flags[@]}" ios_demo/HimixDemo/*.swift
swiftc -typecheck "${strict[@]}" -module-name HimixCoreTests "${flags[@]}" \
    ios_demo/HimixKit/Tests/HimixCoreTests/{CoreMLTests,Goldens}.swift
# the stubs refuse what Xcode 16.0 refuses: a variable of C's
sed 's/^@preconcurrency import Darwin/import Darwin/' $kit/ProcessMemory.swift > $modules/Plain.swift
if plain=$(swiftc -typecheck "${strict[@]}" -module-name Plain "${flags[@]}" $modules/Plain.swift 2>&1); then
    echo "Stubs/Darwin lets a plain import pass, which Xcode 16.0 does not"
    exit 1
fi
grep -q "mach_task_self_.*not concurrency-safe" <<< "$plain" || { echo "$plain"; exit 1; }
