import Foundation

/// manifest.json of a bundle: what an app needs of it. `himix_edge/bundle.py` is the schema.
public struct Manifest: Decodable, Sendable {
    public static let schemaVersion = 1
    public static let fileName = "manifest.json"
    static let maxBytes = 4 << 20
    static let roles = ["vision_encoder", "vision_injector", "decoder"]

    public let name: String
    public let target: String
    public let roles: [String: [FileRecord]]
    public let files: [FileRecord]
    public let model: ModelShape
    public let preprocessing: Preprocessing
    public let quantisation: Quantisation
    public let chatTemplate: ChatTemplate
    public let generation: GenerationDefaults
    public let contextCapacity: Int
    public let visionTokens: Int
    public let imageKvId: String
    public let tools: [String: String]
    public let selftest: SelfTestQuestion

    /// Every file once: a program may serve several roles.
    public var allFiles: [FileRecord] {
        var seen = Set<String>()
        return (roles.keys.sorted().flatMap { roles[$0] ?? [] } + files).filter { seen.insert($0.path).inserted }
    }

    /// Size of all files in bytes, without the manifest.
    public var totalBytes: Int { allFiles.reduce(0) { $0 + $1.bytes } }
}

/// A file of the bundle, its path relative to the folder with forward slashes.
public struct FileRecord: Decodable, Sendable, Equatable {
    public let path: String
    public let bytes: Int
    public let sha256: String
}

/// What is done to an image; `imageSize` is S in pixels.
public struct Preprocessing: Decodable, Sendable {
    public enum Method: String, Decodable, Sendable {
        case bilinear = "pillow-bilinear-squash"
        case bicubic = "pillow-bicubic-squash"
    }

    public let imageSize: Int
    public let method: Method

    public var filter: ResizeFilter { method == .bilinear ? .bilinear : .bicubic }
}

/// How the weights were quantised.
public struct Quantisation: Decodable, Sendable {
    public let precision: String
    public let activations: String
}

/// What an answer uses unless told otherwise; temperature 0 is greedy.
public struct GenerationDefaults: Decodable, Sendable {
    public let maxNewTokens: Int
    public let temperature: Double
    public let topP: Double

    public init(maxNewTokens: Int = 64, temperature: Double = 0, topP: Double = 1) {
        (self.maxNewTokens, self.temperature, self.topP) = (maxNewTokens, temperature, topP)
    }
}

/// One question about one image whose exact answer can be checked on any device.
public struct SelfTestQuestion: Decodable, Sendable {
    public let image: String
    public let prompt: String
    public let pixelsSha256: String
    public let tokenIds: [Int]
    public let text: String
    /// Whether the answer stops there; else it goes on. Older bundles leave it out and do stop.
    public let ends: Bool?
    /// Whether the model is surer of it than devices round differently; random weights are not. Left out: it is.
    public let decisive: Bool?
}

/// The sizes of a model that a session and its cache depend on.
public struct ModelShape: Decodable, Sendable {
    public struct Injection: Decodable, Sendable {
        public let layers: [Int]?
        public let sharing: String?
    }

    public struct Tower: Decodable, Sendable {
        public let featureLayers: [Int]?
        public let imageSize: Int?
    }

    public let architecture: String
    public let vocabSize: Int
    public let hiddenSize: Int
    public let numHiddenLayers: Int
    public let numAttentionHeads: Int
    public let numKeyValueHeads: Int
    public let headDim: Int
    public let visionHiddenSize: Int?
    public let visionConfig: Tower?
    public let injection: Injection?

    /// For each decoder layer, which row of an image's keys it starts its cache with; nil: of none.
    public var visionRows: [Int?] {
        var rows = [Int?](repeating: nil, count: numHiddenLayers)
        let injected = injectedLayers
        let sharing = architecture == "himix" ? injection?.sharing ?? "none" : "none"
        let levels = sharing == "levels" ? visionConfig?.featureLayers?.count ?? 1 : 1
        for (i, layer) in injected.enumerated() {
            rows[layer] = sharing == "none" ? i : i * levels / injected.count
        }
        return rows
    }

    /// I: distinct keys and values of an image, one per layer unless layers share or lack them.
    public var numVisionRows: Int { Set(visionRows.compactMap { $0 }).count }

    /// Rotary position of the first text token behind `visionTokens` slots: HiMix's image tokens have none.
    public func firstTextPosition(visionTokens: Int) -> Int { architecture == "vanilla" ? visionTokens : 0 }

    private var injectedLayers: [Int] {
        if visionHiddenSize == nil { return [] }
        if architecture == "himix", let layers = injection?.layers { return layers }
        return Array(0..<numHiddenLayers)
    }
}
