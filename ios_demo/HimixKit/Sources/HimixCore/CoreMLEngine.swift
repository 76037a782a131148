/// The engine over a `coreml` bundle as the Python package exports it: which function is called with what, and how an
/// image comes into the cache.
@Inference
public final class CoreMLEngine: Engine {
    /// Capacity is rounded up to it: states whose dimensions are multiples of it run on the Neural Engine.
    private nonisolated static let slotMultiple = 32
    /// Tokens that `prefill` takes at once.
    private nonisolated static let prefillTokens = 64

    public let capacity: Int
    private let programs: any CoreMLPrograms
    private let rows: [Int?]
    private let cacheShape: [Int]
    private var used = 0
    private var position = 0

    public init(_ programs: any CoreMLPrograms, manifest: Manifest) {
        (self.programs, capacity, rows) = (programs, manifest.contextCapacity, manifest.model.visionRows)
        cacheShape = Self.cacheShape(manifest)
    }

    /// (L, G, slots, h) of the decoder's states `key_cache` and `value_cache`.
    public nonisolated static func cacheShape(_ manifest: Manifest) -> [Int] {
        let slots = (manifest.contextCapacity + slotMultiple - 1) / slotMultiple * slotMultiple
        let model = manifest.model
        return [model.numHiddenLayers, model.numKeyValueHeads, slots, model.headDim]
    }

    public var provider: String { programs.provider }

    public func encode(_ pixels: RGBImage) throws -> Tensor { try programs.encode(pixels) }

    public func inject(_ features: Tensor) throws -> (key: Tensor, value: Tensor) { try programs.inject(features) }

    public func start(key: Tensor, value: Tensor, position: Int) throws {
        for (name, tensor) in [("key_cache", key), ("value_cache", value)] {
            try programs.write(CacheImage(tensor: tensor, rows: rows, cacheShape: cacheShape), toState: name)
        }
        (used, self.position) = (key.shape[2], position)
    }

    public func step(_ tokens: [Int]) throws -> [Float] {
        var (rest, logits) = (tokens[...], [Float]())
        let (slots, most) = (cacheShape[2], min(Self.prefillTokens, cacheShape[2]))
        while !rest.isEmpty {
            let fits = rest.count > 1 && used + most <= slots
            let length = fits ? most : 1
            let chunk = rest.prefix(length)
            let padding = [Int32](repeating: 0, count: length - chunk.count)
            let call = DecoderCall(
                function: fits ? .prefill : .decode, inputIds: chunk.map { Int32($0) } + padding, start: Int32(used),
                position: Int32(position), last: Int32(chunk.count - 1))
            logits = try programs.decode(call)
            used += chunk.count
            position += chunk.count
            rest = rest.dropFirst(chunk.count)
        }
        return logits
    }
}
