import Foundation

/// A benchmark record: the JSON that every harness of the project writes (`himix_edge/bench/record.py` is the schema).
///
/// Times are in milliseconds, sizes in bytes. What a platform cannot tell is left out.
public struct Record: Encodable, Sendable {
    public struct Device: Encodable, Sendable {
        public var name: String
        public var kind: String
        public var os: String?
        public var cpu: String?
        public var architecture: String?
        public var threads: Int?
        public var memoryBytes: UInt64?

        public init(
            name: String, kind: String, os: String? = nil, cpu: String? = nil, architecture: String? = nil,
            threads: Int? = nil, memoryBytes: UInt64? = nil
        ) {
            (self.name, self.kind, self.os, self.cpu) = (name, kind, os, cpu)
            (self.architecture, self.threads, self.memoryBytes) = (architecture, threads, memoryBytes)
        }
    }

    struct BundleFacts: Encodable, Sendable {
        let name: String
        let target: String
        let precision: String
        let activations: String
        let architecture: String
        let manifestSha256: String
        let bytes: Int
        let decoderBytes: Int
        let kvBytesPerToken: Int
        let contextCapacity: Int
    }

    struct Settings: Encodable, Sendable {
        let warmUp: Int
        let timed: Int
        let mode = "cold-image"
        let images = 1
        let visionTokens: Int
        let newTokens: Int
        let provider: String
        let ignoreStop: Bool
        let sustainedS: Double?
    }

    struct Samples: Encodable, Sendable {
        var load: [Double] = []
        var loadWarm: [Double] = []
        var preprocess: [Double] = []
        var visionEncoder: [Double] = []
        var visionInjector: [Double] = []
        var prefill: [Double] = []
        var ttft: [Double] = []
        var warmTtft: [Double] = []
        var interToken: [Double] = []
    }

    struct Memory: Encodable, Sendable {
        let baselineBytes: UInt64?
        let peakBytes: UInt64?
        let kvCacheBytes: Int
    }

    /// One look at the device during the run.
    public struct Reading: Encodable, Sendable {
        var atS = 0.0
        public var batteryPercent: Double?
        public var charging: Bool?
        public var thermalState: String?
        /// Judged, and no field of the record: its schema has none.
        public var lowPower: Bool?

        private enum CodingKeys: String, CodingKey { case atS, batteryPercent, charging, thermalState }

        public init(
            batteryPercent: Double? = nil, charging: Bool? = nil, thermalState: String? = nil, lowPower: Bool? = nil
        ) {
            (self.batteryPercent, self.charging) = (batteryPercent, charging)
            (self.thermalState, self.lowPower) = (thermalState, lowPower)
        }
    }

    struct Answer: Encodable, Sendable {
        let prompt: String
        let images: [String]
        let text: String
        let tokenIdsSha256: String
        var runs: Int
        var equalRuns: Int
    }

    /// Some seconds of questions without a pause, up to the end of an answer.
    struct Window: Encodable, Sendable {
        let atS: Double
        let seconds: Double
        let answers: Int
        /// Of all those answers.
        let tokens: Int
        /// Behind each answer's first token.
        let tokensPerS: Double?
        let ttftMs: Double?
        let reading: Reading
    }

    struct SustainedPart: Encodable, Sendable {
        let windows: [Window]
    }

    /// What a source tells of the sustained part's energy: on iOS, why there is nothing to tell.
    struct Energy: Encodable, Sendable {
        let source: String
        let what: String
        let reason: String

        static let untold = Energy(
            source: "battery", what: "the whole device", reason: "not readable: iOS tells no power")
    }

    public enum Verdict: String, Encodable, Sendable {
        case valid
        case semiValid = "semi-valid"
        case invalid
    }

    let schemaVersion = 2
    let started: String
    let command: String
    let harness: String
    let device: Device
    let bundle: BundleFacts
    let settings: Settings
    let samples: Samples
    let memory: Memory
    let readings: [Reading]
    let sustained: SustainedPart?
    let energy: [Energy]?
    /// Ran from its battery, with nothing that charges it, at every look.
    let unplugged: Bool?
    let harnessOverhead: Double
    let selfTestPassed: Bool?
    let answers: [Answer]
    public let verdict: Verdict
    public let reasons: [String]
    let versions: [String: String]

    /// The file's content.
    public func json() throws -> Data {
        let encoder = JSONEncoder()
        encoder.keyEncodingStrategy = .convertToSnakeCase
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        return try encoder.encode(self)
    }

    /// Medians for people, by stage.
    public var medians: [(stage: String, milliseconds: Double)] {
        let stages = [
            ("load", samples.load + samples.loadWarm), ("preprocess", samples.preprocess),
            ("vision encoder", samples.visionEncoder), ("vision injector", samples.visionInjector),
            ("prefill", samples.prefill), ("TTFT", samples.ttft), ("warm TTFT", samples.warmTtft),
            ("a further token", samples.interToken),
        ]
        return stages.compactMap { stage, times in
            median(times).map { (stage: stage, milliseconds: $0) }
        }
    }
}

/// Whether every look found the device on its battery; nil if the platform did not always say.
func unplugged(_ readings: [Record.Reading]) -> Bool? {
    if readings.contains(where: { $0.charging == true }) { return false }
    return readings.isEmpty || readings.contains { $0.charging == nil } ? nil : true
}

/// The digest of an answer: SHA-256 of its ids in decimal, joined by commas.
func tokenDigest(_ ids: [Int]) -> String {
    sha256(Data(ids.map(String.init).joined(separator: ",").utf8))
}

func median(_ values: [Double]) -> Double? {
    if values.isEmpty { return nil }
    let sorted = values.sorted()
    let middle = sorted.count / 2
    return sorted.count % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}
