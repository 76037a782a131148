/// A bundle's three Core ML packages, called one at a time: by Core ML itself, or by a test's interpreter.
@Inference
public protocol CoreMLPrograms: AnyObject {
    /// What computes, for benchmark records.
    var provider: String { get }

    /// S x S pixels -> `vision_features` (1, N, d_v).
    func encode(_ pixels: RGBImage) throws -> Tensor

    /// `vision_features` -> `vision_key` and `vision_value` (I, G, N, h).
    func inject(_ features: Tensor) throws -> (key: Tensor, value: Tensor)

    /// Fill the decoder's state `name` with zeros and, in its first slots, an image's keys or values.
    func write(_ image: CacheImage, toState name: String) throws

    /// One call of the decoder's `prefill` or `decode` -> logits (V) of the last token.
    func decode(_ call: DecoderCall) throws -> [Float]
}

/// The inputs of one call of the decoder.
public struct DecoderCall: Sendable, Equatable {
    public enum Function: String, Sendable {
        /// A fixed number of tokens, padded.
        case prefill
        /// One token.
        case decode
    }

    public let function: Function
    /// (1, T)
    public let inputIds: [Int32]
    /// The first cache slot to be written.
    public let start: Int32
    /// Rotary position of the first token.
    public let position: Int32
    /// The token whose logits are wanted.
    public let last: Int32
}

/// An image's keys or values (I, G, n, h), and how they lie in a cache (L, G, slots, h).
public struct CacheImage: Sendable {
    public let tensor: Tensor
    /// For each layer, the tensor's row that goes into it; nil: none.
    public let rows: [Int?]
    /// L, G, slots, h
    public let cacheShape: [Int]

    /// Write it into a cache whose other numbers are zero already.
    ///
    /// - Parameter strides: of the cache's dimensions, in numbers. A runtime may pad them.
    public func write<Number: BinaryFloatingPoint>(
        into cache: UnsafeMutableBufferPointer<Number>, strides: [Int]
    ) {
        let (heads, slots, size) = (tensor.shape[1], tensor.shape[2], tensor.shape[3])
        for (layer, row) in rows.enumerated() {
            guard let row else { continue }
            for head in 0..<heads {
                for slot in 0..<slots {
                    let from = ((row * heads + head) * slots + slot) * size
                    let to = layer * strides[0] + head * strides[1] + slot * strides[2]
                    for i in 0..<size {
                        cache[to + i * strides[3]] = Number(tensor.values[from + i])
                    }
                }
            }
        }
    }
}
