// swift-tools-version:6.0
import PackageDescription

let package = Package(
    name: "HimixKit",
    platforms: [.iOS(.v18), .macOS(.v15)],
    products: [.library(name: "HimixCore", targets: ["HimixCore"])],
    targets: [
        .target(name: "HimixCore"),
        .testTarget(name: "HimixCoreTests", dependencies: ["HimixCore"]),
    ]
)

// Core ML is on Apple's systems only; everything else builds and is tested anywhere.
#if canImport(Darwin)
    package.products.append(.library(name: "HimixCoreML", targets: ["HimixCoreML"]))
    package.targets += [
        .target(name: "HimixCoreML", dependencies: ["HimixCore"]),
        .testTarget(name: "HimixCoreMLTests", dependencies: ["HimixCoreML"]),
    ]
#endif
