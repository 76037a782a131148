import Foundation

/// Greedy at temperature 0, else nucleus sampling (Holtzman et al., arXiv 1904.09751).
public struct Sampler: Sendable {
    public let temperature: Double
    public let topP: Double
    private var random: SplitMix64

    /// - Parameter seed: makes sampling repeatable, here; the Python package draws other numbers from it.
    /// - Throws: `HimixError`: temperature below 0, or topP outside (0, 1].
    public init(temperature: Double = 0, topP: Double = 1, seed: UInt64? = nil) throws {
        guard temperature >= 0, temperature.isFinite else {
            throw HimixError("temperature is \(temperature); it must be 0 (greedy) or more")
        }
        guard topP > 0, topP <= 1 else { throw HimixError("top_p is \(topP); it must be above 0 and at most 1") }
        (self.temperature, self.topP) = (temperature, topP)
        random = SplitMix64(state: seed ?? UInt64.random(in: 0 ... .max))
    }

    /// The next token's id, from logits (V).
    public mutating func pick(_ logits: [Float]) -> Int {
        if temperature == 0 {
            return logits.indices.dropFirst().reduce(0) { logits[$1] > logits[$0] ? $1 : $0 }
        }
        let weights = probabilities(logits)
        var left = Double(random.next() >> 11) * 0x1p-53
        for (id, weight) in weights.enumerated() where weight > 0 {
            left -= weight
            if left < 0 { return id }
        }
        return weights.lastIndex { $0 > 0 } ?? 0
    }

    /// The smallest set of likeliest tokens that reaches topP, renormalised.
    public func probabilities(_ logits: [Float]) -> [Double] {
        let most = Double(logits.max() ?? 0)
        var weights = logits.map { exp((Double($0) - most) / temperature) }  // the least temperature divides 0
        let sum = weights.reduce(0, +)
        weights = weights.map { $0 / sum }
        let order = weights.indices.sorted { weights[$0] != weights[$1] ? weights[$0] > weights[$1] : $0 < $1 }
        var before = 0.0
        for id in order {
            let weight = weights[id]
            if before >= topP { weights[id] = 0 }
            before += weight
        }
        let kept = weights.reduce(0, +)
        return weights.map { $0 / kept }
    }
}

/// Steele, Lea and Flood's SplitMix64 (OOPSLA 2014): a small generator that can be seeded.
struct SplitMix64: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }
}
