// swift-tools-version:6.0
import PackageDescription

let core = Target.target(name: "HimixCore")
let tests = Target.testTarget(name: "HimixCoreTests", dependencies: ["HimixCore"])

let package = Package(
    name: "HimixKit",
    platforms: [.iOS(.v18), .macOS(.v15)],
    products: [.library(name: "HimixCore", targets: ["HimixCore"])],
    targets: [core, tests]
)

// Core ML is on Apple's systems only; everything else builds and is tested anywhere.
#if canImport(Darwin)
    package.products.append(.library(name: "HimixCoreML", targets: ["HimixCoreML"]))
    package.targets.append(.target(name: "HimixCoreML", dependencies: ["HimixCore"]))
    tests.dependencies.append("HimixCoreML")
#endif
