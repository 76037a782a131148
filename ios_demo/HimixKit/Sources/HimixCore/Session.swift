import Foundation

/// An image for a session: pixels still to be decoded, so that decoding is timed with the rest, or keys and values.
public enum ImageInput: Sendable {
    case pixels(@Sendable () throws -> any PixelSource)
    case encoded(ImageKV)
}

/// How an answer is made; nil takes the bundle's default.
public struct AnswerOptions: Sendable {
    public var maxNewTokens: Int?
    /// 0 is greedy.
    public var temperature: Double?
    public var topP: Double?
    /// Makes sampling repeatable.
    public var seed: UInt64?
    /// Further texts that end the answer; a matching text is not part of it.
    public var stop: [String]
    /// Answers go on past a stop token, to `maxNewTokens`.
    public var ignoresStop: Bool

    public init(
        maxNewTokens: Int? = nil, temperature: Double? = nil, topP: Double? = nil, seed: UInt64? = nil,
        stop: [String] = [], ignoresStop: Bool = false
    ) {
        (self.maxNewTokens, self.temperature, self.topP) = (maxNewTokens, temperature, topP)
        (self.seed, self.stop, self.ignoresStop) = (seed, stop, ignoresStop)
    }
}

/// An open model: encode an image once, ask about it as often as you like. It has one KV cache.
@Inference
public final class Session {
    public let manifest: Manifest
    let engine: any Engine
    let text: TextProcessor
    private static let mostNarrowed = 1 << 27  // pixels of an image behind the horizontal pass: 384 MB
    weak var owner: Chat?  // whose tokens are in the cache

    public init(engine: any Engine, text: TextProcessor, manifest: Manifest) {
        (self.engine, self.text, self.manifest) = (engine, text, manifest)
    }

    /// Cache slots: vision tokens, prompt and answer together.
    public var capacity: Int { engine.capacity }
    /// What computes: "core-ml", "interpreter".
    public var provider: String { engine.provider }

    /// Images' keys and values, joined, to be used under any prompt, and the times of the image stages.
    ///
    /// - Throws: `HimixError`: an image cannot be read, or is another model's.
    public func encode(_ images: [ImageInput]) throws -> (image: ImageKV, stats: Stats) {
        var stats = Stats()
        return (try vision(images, &stats), stats)
    }

    /// Answer one prompt, token by token.
    ///
    /// - Throws: `HimixError`: an empty prompt, one that does not fit into the cache, a bad image or setting; before
    ///   the first piece.
    public func generate(
        _ prompt: String, images: [ImageInput] = [], options: AnswerOptions = AnswerOptions()
    ) throws -> Answer {
        try Chat(self, images: images, system: nil).send(prompt, options: options)
    }

    /// A conversation of several turns; each turn adds to the cache, nothing is computed twice.
    public func chat(images: [ImageInput] = [], system: String? = nil) -> Chat {
        Chat(self, images: images, system: system)
    }

    func vision(_ images: [ImageInput], _ stats: inout Stats) throws -> ImageKV {
        if images.isEmpty { return noImage }
        return try ImageKV.joined(
            images.map { image in
                switch image {
                case .encoded(let kv): try checked(kv)
                case .pixels(let load): try encode(load, &stats)
                }
            })
    }

    /// Keys and values of zero slots: what a text without an image starts from.
    private var noImage: ImageKV {
        let nothing = Tensor(
            shape: [manifest.model.numVisionRows, manifest.model.numKeyValueHeads, 0, manifest.model.headDim],
            values: [])
        return ImageKV(key: nothing, value: nothing, modelId: manifest.imageKvId, nextPosition: 0)
    }

    func checked(_ image: ImageKV) throws -> ImageKV {
        let (shape, model) = (image.key.shape, manifest.model)
        let isPlaced = image.nextPosition == model.firstTextPosition(visionTokens: image.tokens)
        let fits = shape == [model.numVisionRows, model.numKeyValueHeads, image.tokens, model.headDim]
        guard fits, isPlaced, image.tokens > 0, image.value.shape == shape, image.modelId == manifest.imageKvId else {
            throw HimixError(
                "this ImageKV was made by another model (\(image.modelId.isEmpty ? "unknown" : image.modelId), "
                    + "this one is \(manifest.imageKvId)); encode the image again")
        }
        return image
    }

    private func encode(_ load: () throws -> any PixelSource, _ stats: inout Stats) throws -> ImageKV {
        var clock = Stopwatch()
        let picture = try load()
        guard picture.height * manifest.preprocessing.imageSize <= Self.mostNarrowed else {
            let size = "\(picture.width) x \(picture.height)"
            throw HimixError("\(size) pixels are too high for this model; scale it down first")
        }
        let pixels = try picture.resized(to: manifest.preprocessing.imageSize, manifest.preprocessing.filter)
        stats.preprocess += clock.lap()
        let features = try engine.encode(pixels)
        stats.visionEncoder += clock.lap()
        let (key, value) = try engine.inject(features)
        let (model, tokens) = (manifest.model, manifest.visionTokens)
        let shape = [model.numVisionRows, model.numKeyValueHeads, tokens, model.headDim]
        guard key.shape == shape, value.shape == shape else {
            throw HimixError("vision_injector: gives \(key.shape) and \(value.shape), the manifest says \(shape)")
        }
        stats.visionInjector += clock.lap()
        return ImageKV(
            key: key, value: value, modelId: manifest.imageKvId,
            nextPosition: manifest.model.firstTextPosition(visionTokens: key.shape[2]))
    }
}
