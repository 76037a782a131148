/// The filters of Pillow's `resize`: a triangle, or Keys' cubic with a = -0.5.
public enum ResizeFilter: Sendable {
    case bilinear, bicubic

    fileprivate var support: Double { self == .bilinear ? 1 : 2 }

    fileprivate func weight(_ distance: Double) -> Double {
        let x = abs(distance)
        switch self {
        case .bilinear: return x < 1 ? 1 - x : 0
        case .bicubic:
            let a = -0.5
            if x < 1 { return ((a + 2) * x - (a + 3)) * x * x + 1 }
            return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0
        }
    }
}

extension RGBImage {
    /// Squashed to `side` x `side`, bit for bit as Pillow does it: the support grows with the reduction, weights are
    /// 22-bit fixed point, the horizontal pass comes first and is rounded to 8 bits.
    public func resized(to side: Int, _ filter: ResizeFilter) -> RGBImage {
        if width == side, height == side { return self }
        let columns = Weights(from: width, to: side, filter)
        let rows = Weights(from: height, to: side, filter)
        let narrow = Self.pass(pixels, lines: height, length: width, step: 3, lineStep: width * 3, columns)
        let result = Self.pass(narrow, lines: side, length: height, step: side * 3, lineStep: 3, rows)
        return RGBImage(trustedWidth: side, height: side, pixels: result)
    }

    /// Every line of `source` resampled by `weights`; the result has the same layout, with another length.
    ///
    /// - Parameters:
    ///   - step: bytes from a pixel of a line to its next one: 3 along rows, a row's bytes along columns.
    ///   - lineStep: bytes from a line to the next.
    private static func pass(
        _ source: [UInt8], lines: Int, length: Int, step: Int, lineStep: Int, _ weights: Weights
    ) -> [UInt8] {
        let alongRows = step == 3
        let outLineStep = alongRows ? weights.spans.count * 3 : lineStep
        let count = lines * weights.spans.count * 3
        return [UInt8](unsafeUninitializedCapacity: count) { target, written in
            source.withUnsafeBufferPointer { source in
                weights.values.withUnsafeBufferPointer { values in
                    for line in 0..<lines {
                        for (i, span) in weights.spans.enumerated() {
                            var (r, g, b) = (Weights.half, Weights.half, Weights.half)
                            var at = line * lineStep + span.first * step
                            for k in span.offset..<(span.offset + span.count) {
                                let weight = values[k]
                                r &+= Int(source[at]) &* weight
                                g &+= Int(source[at + 1]) &* weight
                                b &+= Int(source[at + 2]) &* weight
                                at += step
                            }
                            let out = line * outLineStep + i * step
                            target[out] = Weights.rounded(r)
                            target[out + 1] = Weights.rounded(g)
                            target[out + 2] = Weights.rounded(b)
                        }
                    }
                }
            }
            written = count
        }
    }
}

/// For each output pixel, which input pixels count and how much.
private struct Weights {
    struct Span {
        let first: Int
        let count: Int
        let offset: Int
    }

    static let bits = 22
    static let half = 1 << (bits - 1)

    var spans: [Span] = []
    var values: [Int] = []

    init(from inSize: Int, to outSize: Int, _ filter: ResizeFilter) {
        let scale = Double(inSize) / Double(outSize)
        let stretch = max(scale, 1)
        let support = filter.support * stretch
        for i in 0..<outSize {
            let center = (Double(i) + 0.5) * scale
            let first = max(Int(center - support + 0.5), 0)
            let end = min(Int(center + support + 0.5), inSize)
            let raw = (first..<end).map { filter.weight((Double($0) - center + 0.5) * (1 / stretch)) }
            let sum = raw.reduce(0, +)
            spans.append(Span(first: first, count: raw.count, offset: values.count))
            values += raw.map { weight in
                let fixed = (sum == 0 ? weight : weight / sum) * Double(1 << Self.bits)
                return Int(fixed < 0 ? fixed - 0.5 : fixed + 0.5)
            }
        }
    }

    @inline(__always)
    static func rounded(_ sum: Int) -> UInt8 {
        UInt8(truncatingIfNeeded: min(max(sum >> bits, 0), 255))
    }
}
