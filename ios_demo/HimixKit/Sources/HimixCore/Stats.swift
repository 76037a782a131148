import Foundation

/// One generated token and the text it completes (empty inside a multi-byte character or a possible stop text).
///
/// `tokenId` is nil for text that was held back as a possible stop text when the answer ended.
public struct Piece: Sendable, Equatable {
    public let text: String
    public let tokenId: Int?
}

/// Times of an answer in milliseconds; an image stage is 0 if its `ImageKV` was given.
///
/// `ttft` runs from the call to the first non-empty text, image stages included. `interToken` holds the time of each
/// further token.
public struct Stats: Sendable {
    public enum FinishReason: String, Sendable {
        /// The model ended its answer, or a stop text came.
        case stop
        /// `maxNewTokens`, or the end of the cache.
        case length
    }

    public internal(set) var preprocess = 0.0
    public internal(set) var visionEncoder = 0.0
    public internal(set) var visionInjector = 0.0
    public internal(set) var prefill = 0.0
    public internal(set) var ttft = 0.0
    public internal(set) var interToken: [Double] = []
    public internal(set) var promptTokens = 0
    public internal(set) var visionTokens = 0
    public internal(set) var newTokens = 0
    public internal(set) var finishReason: FinishReason?

    public init() {}
}

/// Milliseconds between calls.
struct Stopwatch {
    private var then = ContinuousClock.now

    mutating func lap() -> Double {
        let now = ContinuousClock.now
        defer { then = now }
        return Self.milliseconds(now - then)
    }

    func total() -> Double { Self.milliseconds(ContinuousClock.now - then) }

    private static func milliseconds(_ duration: Duration) -> Double {
        let (seconds, attoseconds) = duration.components
        return Double(seconds) * 1e3 + Double(attoseconds) * 1e-15
    }
}
