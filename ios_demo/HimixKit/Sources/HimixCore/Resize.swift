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

extension PixelSource {
    /// Pixels that are asked for at once: 3 MB.
    static var bandPixels: Int { 1 << 20 }

    /// Squashed to `side` x `side`, bit for bit as Pillow does it: the support grows with the reduction, weights are
    /// 22-bit fixed point, the horizontal pass comes first and is rounded to 8 bits.
    ///
    /// Beside one band of rows it holds that band at its new width and the sums of the result.
    ///
    /// - Throws: what `rows` throws.
    public func resized(to side: Int, _ filter: ResizeFilter) throws -> RGBImage {
        let columns = width == side ? nil : Weights(from: width, to: side, filter)
        let lines = height == side ? nil : Weights(from: height, to: side, filter)
        let stride = side * 3
        var sums = [Int](repeating: Weights.half, count: side * stride)
        var kept = [UInt8]()  // where nothing is to be done along the columns
        let band = max(1, Self.bandPixels / width)
        for from in Swift.stride(from: 0, to: height, by: band) {
            let range = from..<min(height, from + band)
            let rows = try rows(range)
            let narrow = columns.map { narrowed(rows, width: width, to: $0) } ?? rows
            if let lines { lines.add(narrow, range, stride: stride, to: &sums) } else { kept += narrow }
        }
        let pixels = lines == nil ? kept : sums.map(Weights.rounded)
        return RGBImage(trustedWidth: side, height: side, pixels: pixels)
    }
}

/// Rows of `width` pixels resampled to as many as `weights` has.
private func narrowed(_ rows: [UInt8], width: Int, to weights: Weights) -> [UInt8] {
    let lines = rows.count / (width * 3)
    let count = lines * weights.spans.count * 3
    return [UInt8](unsafeUninitializedCapacity: count) { target, written in
        rows.withUnsafeBufferPointer { source in
            weights.values.withUnsafeBufferPointer { values in
                var out = 0
                for line in 0..<lines {
                    for span in weights.spans {
                        var (r, g, b) = (Weights.half, Weights.half, Weights.half)
                        var at = (line * width + span.first) * 3
                        for k in span.offset..<(span.offset + span.count) {
                            let weight = values[k]
                            r &+= Int(source[at]) &* weight
                            g &+= Int(source[at + 1]) &* weight
                            b &+= Int(source[at + 2]) &* weight
                            at += 3
                        }
                        target[out] = Weights.rounded(r)
                        target[out + 1] = Weights.rounded(g)
                        target[out + 2] = Weights.rounded(b)
                        out += 3
                    }
                }
            }
        }
        written = count
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

    /// Add rows `range` of the narrowed image, `stride` bytes each, to the sums of the lines that they count for.
    func add(_ rows: [UInt8], _ range: Range<Int>, stride: Int, to sums: inout [Int]) {
        rows.withUnsafeBufferPointer { rows in
            sums.withUnsafeMutableBufferPointer { sums in
                for (line, span) in spans.enumerated() {
                    let reached =
                        max(
                            range.lowerBound, span.first)..<max(
                            max(range.lowerBound, span.first), min(range.upperBound, span.first + span.count))
                    for row in reached {
                        let weight = values[span.offset + row - span.first]
                        let (at, sum) = ((row - range.lowerBound) * stride, line * stride)
                        for i in 0..<stride { sums[sum + i] &+= Int(rows[at + i]) &* weight }
                    }
                }
            }
        }
    }

    @inline(__always)
    static func rounded(_ sum: Int) -> UInt8 {
        UInt8(truncatingIfNeeded: min(max(sum >> bits, 0), 255))
    }
}
