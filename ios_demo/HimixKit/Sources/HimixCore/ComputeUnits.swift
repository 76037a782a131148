import Foundation

/// What Core ML may compute on, in the order in which they are tried, named as in `himix run --provider`.
public enum ComputeUnits: String, Codable, Sendable, CaseIterable {
    case all
    case cpuAndNeuralEngine = "cpu+npu"
    case cpuAndGPU = "cpu+gpu"
    case cpuOnly = "cpu"
}

/// Which units a bundle has passed its self-test on, by the manifest's SHA-256 and the system's version.
public struct UnitsMemory: Sendable {
    private struct Facts: Codable {
        var passed: ComputeUnits?
        var failed: [ComputeUnits] = []
    }

    private static let most = 32  // bundles that are remembered
    private let file: URL
    private let system: String

    public init(_ file: URL, system: String) { (self.file, self.system) = (file, system) }

    /// What to try: the units that passed before, or all that have not failed, in order. If everything has failed, all.
    public func order(for bundle: String) -> [ComputeUnits] {
        let facts = read()[key(bundle)] ?? Facts()
        if let passed = facts.passed { return [passed] + ComputeUnits.allCases.filter { $0 != passed } }
        let left = ComputeUnits.allCases.filter { !facts.failed.contains($0) }
        return left.isEmpty ? ComputeUnits.allCases : left
    }

    public func passed(_ units: ComputeUnits, for bundle: String) {
        change(bundle) { $0.passed = units }
    }

    /// The self-test failed there, Core ML refused, or the app ended.
    public func failed(_ units: ComputeUnits, for bundle: String) {
        change(bundle) { facts in
            if facts.passed == units { facts.passed = nil }
            if !facts.failed.contains(units) { facts.failed.append(units) }
        }
    }

    private func key(_ bundle: String) -> String { "\(bundle) \(system)" }

    private func read() -> [String: Facts] {
        guard let content = try? Data(contentsOf: file) else { return [:] }
        return (try? JSONDecoder().decode([String: Facts].self, from: content)) ?? [:]
    }

    private func change(_ bundle: String, _ change: (inout Facts) -> Void) {
        var all = read()
        while all.count >= Self.most, all[key(bundle)] == nil, let other = all.keys.first { all[other] = nil }
        change(&all[key(bundle), default: Facts()])
        try? JSONEncoder().encode(all).write(to: file, options: .atomic)  // without it the trial is repeated
    }
}

/// Try `order` until one opens and passes its self-test.
///
/// - Parameters:
///   - begin: called before each, so that units that end the app are known at its next start.
///   - open: opens the bundle there and runs its self-test; what it returns is taken if `passes` says so.
/// - Returns: the units, what was opened, and for the user why others were not taken.
/// - Throws: the last units' error, or `HimixError` if the self-test fails everywhere.
@Inference
public func firstThatPasses<Opened: Sendable>(
    _ order: [ComputeUnits], memory: UnitsMemory, bundle: String, begin: (ComputeUnits) throws -> Void,
    open: (ComputeUnits) async throws -> Opened, passes: (Opened) throws -> Bool
) async throws -> (units: ComputeUnits, opened: Opened, notes: [String]) {
    var notes: [String] = []
    var last: (any Error)?
    for units in order {
        try begin(units)
        do {
            let opened = try await open(units)
            if try passes(opened) {
                memory.passed(units, for: bundle)
                return (units, opened, notes)
            }
            notes.append("\(units.rawValue): the self-test gives another answer there")
        } catch is CancellationError {
            throw CancellationError()
        } catch {
            last = error
            notes.append("\(units.rawValue): \(error.localizedDescription)")
        }
        memory.failed(units, for: bundle)
    }
    throw last ?? HimixError("the bundle's self-test gives another answer on all of this device's compute units")
}
