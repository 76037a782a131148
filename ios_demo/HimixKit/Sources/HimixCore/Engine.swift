/// Where models run: one at a time, away from the main thread.
@globalActor
public actor Inference {
    public static let shared = Inference()
}

/// What a runtime has to do; sessions build everything else on it. One loaded model with one KV cache.
///
/// Shapes: S image size, N vision tokens, d_v their width, I distinct keys and values of an image, G key/value heads,
/// h head dim, V vocabulary.
@Inference
public protocol Engine: AnyObject {
    /// Cache slots, vision and text together.
    var capacity: Int { get }
    /// What computes, for benchmark records: "core-ml", "interpreter".
    var provider: String { get }

    /// S x S pixels -> vision features (1, N, d_v).
    func encode(_ pixels: RGBImage) throws -> Tensor

    /// Vision features -> vision key and value (I, G, N, h).
    func inject(_ features: Tensor) throws -> (key: Tensor, value: Tensor)

    /// Empty the cache and fill its first slots with vision key and value (I, G, n, h), n >= 0.
    ///
    /// `position` is the rotary position of the first text token.
    func start(key: Tensor, value: Tensor, position: Int) throws

    /// Append tokens to the cache -> logits (V) of the last one. Never called beyond `capacity`.
    func step(_ tokens: [Int]) throws -> [Float]
}
