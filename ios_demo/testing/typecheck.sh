#!/bin/bash
# Type-checks what only Apple's systems can run (Core ML engine, app, Core ML tests) against Stubs/: the signatures of
# Apple's frameworks that it uses. Run by run.sh where `swift` is, in the project's root.
set -euo pipefail
modules=build/ios/stubs
core=$(find build/ios/scratch -path '*debug/Modules/HimixCore.swiftmodule' | head -n 1)
[ -n "$core" ] || { echo "HimixCore is not built"; exit 1; }
flags=(-I "$modules" -I "$(dirname "$core")" -parse-as-library)
rm -rf $modules
mkdir -p $modules
for stub in Darwin CoreGraphics ImageIO CoreVideo CoreML UniformTypeIdentifiers UIKit SwiftUI PhotosUI; do
    swiftc -emit-module -swift-version 5 -suppress-warnings -module-name $stub "${flags[@]}" \
        -emit-module-path $modules/$stub.swiftmodule ios_demo/Stubs/$stub.swift
done
swiftc -emit-module -swift-version 6 -warnings-as-errors -module-name HimixCoreML "${flags[@]}" \
    -emit-module-path $modules/HimixCoreML.swiftmodule ios_demo/HimixKit/Sources/HimixCoreML/*.swift
swiftc -typecheck -swift-version 6 -warnings-as-errors -module-name HimixDemo "${flags[@]}" ios_demo/HimixDemo/*.swift
swiftc -typecheck -swift-version 6 -warnings-as-errors -module-name HimixCoreTests "${flags[@]}" \
    ios_demo/HimixKit/Tests/HimixCoreTests/{CoreMLTests,Goldens}.swift
