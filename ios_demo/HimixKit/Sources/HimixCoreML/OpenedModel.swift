import CoreML
import Foundation
import HimixCore

/// A bundle that is verified, compiled and ready for the first question.
public struct OpenedModel: Sendable {
    public let bundle: ModelBundle
    public let session: Session
    public let load: LoadFacts
    /// What it computes on.
    public let units: ComputeUnits
    /// Why it does not compute on what comes before in the order.
    public let notes: [String]

    /// Check every hash of a bundle, compile its packages (once a device) and load them in Core ML on the first compute
    /// units on which the bundle passes its self-test.
    ///
    /// - Parameters:
    ///   - marker: tells the next start what was being opened, should the app end here.
    ///   - memory: which units passed, and which ended the app.
    ///   - shipped: whether it is the bundle that the app came with.
    ///   - progress: the share of the files that is checked.
    /// - Throws: `HimixError`: a damaged or foreign bundle, or one that Core ML does not take.
    @Inference
    public static func open(
        _ folder: URL, shipped: Bool, marker: OpeningMarker, memory: UnitsMemory,
        progress: @Sendable (Double) -> Void = { _ in }
    ) async throws -> OpenedModel {
        defer { marker.end() }
        try marker.begin(.init(shipped: shipped, bundle: ""))
        let baseline = ProcessMemory.now().footprint
        let began = ContinuousClock.now
        let bundle = try ModelBundle(verifying: folder, progress: progress)
        let text = try bundle.loadText()
        let digest = try bundle.digest()
        let order = memory.order(for: digest)
        let (units, loaded, notes) = try await firstThatPasses(
            order, memory: memory, bundle: digest,
            begin: { try marker.begin(.init(shipped: shipped, bundle: digest, units: $0)) },
            open: { units in
                let engine = CoreMLEngine(try await load(bundle, units), manifest: bundle.manifest)
                let session = Session(engine: engine, text: text, manifest: bundle.manifest)
                return (session: session, milliseconds: milliseconds(ContinuousClock.now - began))
            },
            passes: { loaded in
                let image: @Sendable (URL) throws -> any PixelSource = { try DecodedImage.decode(fileAt: $0) }
                return try loaded.session.selfTest(bundle, load: image).passed
            })
        return OpenedModel(
            bundle: bundle, session: loaded.session,
            load: LoadFacts(milliseconds: loaded.milliseconds, baselineBytes: baseline), units: units, notes: notes)
    }

    /// A compiled model that cannot be loaded is compiled anew, once.
    @Inference
    private static func load(_ bundle: ModelBundle, _ units: ComputeUnits) async throws -> ApplePrograms {
        do {
            let compiled = try await CompiledModels.find(bundle)
            return try ApplePrograms(compiled: compiled, manifest: bundle.manifest, units: units)
        } catch {
            CompiledModels.remove(bundle)
            let compiled = try await CompiledModels.find(bundle)
            return try ApplePrograms(compiled: compiled, manifest: bundle.manifest, units: units)
        }
    }

    private static func milliseconds(_ duration: Duration) -> Double {
        let (seconds, attoseconds) = duration.components
        return Double(seconds) * 1e3 + Double(attoseconds) * 1e-15
    }
}

extension ComputeUnits {
    var coreML: MLComputeUnits {
        switch self {
        case .all: .all
        case .cpuAndNeuralEngine: .cpuAndNeuralEngine
        case .cpuAndGPU: .cpuAndGPU
        case .cpuOnly: .cpuOnly
        }
    }
}
