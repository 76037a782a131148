import CoreML
import Foundation
import HimixCore

/// A bundle that is verified, compiled and ready for the first question.
public struct OpenedModel: Sendable {
    public let bundle: ModelBundle
    public let session: Session
    public let load: LoadFacts

    /// Check every hash of a bundle, compile its packages (once a device) and load them in Core ML.
    ///
    /// - Parameters:
    ///   - computeUnits: `.all` lets Core ML choose between CPU, GPU and Neural Engine.
    ///   - progress: the share of the files that is checked.
    /// - Throws: `HimixError`: a damaged or foreign bundle, or one that Core ML does not take.
    @Inference
    public static func open(
        _ folder: URL, computeUnits: MLComputeUnits = .all, progress: @Sendable (Double) -> Void = { _ in }
    ) async throws -> OpenedModel {
        let baseline = ProcessMemory.now().footprint
        let began = ContinuousClock.now
        let bundle = try ModelBundle(verifying: folder, progress: progress)
        let text = try bundle.loadText()
        let programs = try await load(bundle, computeUnits)
        let engine = CoreMLEngine(programs, manifest: bundle.manifest)
        let session = Session(engine: engine, text: text, manifest: bundle.manifest)
        let (seconds, attoseconds) = (ContinuousClock.now - began).components
        let milliseconds = Double(seconds) * 1e3 + Double(attoseconds) * 1e-15
        return OpenedModel(
            bundle: bundle, session: session, load: LoadFacts(milliseconds: milliseconds, baselineBytes: baseline))
    }

    /// A compiled model that cannot be loaded is compiled anew, once.
    @Inference
    private static func load(_ bundle: ModelBundle, _ units: MLComputeUnits) async throws -> ApplePrograms {
        do {
            let compiled = try await CompiledModels.find(bundle)
            return try ApplePrograms(compiled: compiled, manifest: bundle.manifest, computeUnits: units)
        } catch {
            CompiledModels.remove(bundle)
            let compiled = try await CompiledModels.find(bundle)
            return try ApplePrograms(compiled: compiled, manifest: bundle.manifest, computeUnits: units)
        }
    }
}
