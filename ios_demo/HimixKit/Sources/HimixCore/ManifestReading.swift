import Foundation

extension Manifest {
    /// Parse and check manifest.json without touching the other files.
    ///
    /// - Throws: `HimixError` naming the file and what is wrong with it.
    public static func read(_ folder: URL) throws -> Manifest {
        let url = folder.appendingPathComponent(fileName)
        var isFolder: ObjCBool = false
        guard FileManager.default.fileExists(atPath: folder.path, isDirectory: &isFolder), isFolder.boolValue else {
            throw HimixError("\(folder.path): no such bundle folder")
        }
        guard let size = fileSize(url) else {
            throw HimixError("\(folder.path): no \(fileName) in it; is it a bundle?")
        }
        guard size <= maxBytes else {
            throw HimixError("\(fileName): larger than \(maxBytes >> 20) MiB; refused")
        }
        let data: Data
        do {
            data = try Data(contentsOf: url)
        } catch {
            throw HimixError("\(fileName): cannot be read (\(error.localizedDescription))")
        }
        return try parse(data)
    }

    static func parse(_ data: Data) throws -> Manifest {
        struct Version: Decodable { let schemaVersion: Int }
        let manifest: Manifest
        do {
            try StrictJSON.check(data)
        } catch let error as HimixError {
            throw HimixError("\(fileName): \(error.message)")
        }
        try checkNumbers(data)
        do {
            let version = try decoder.decode(Version.self, from: data).schemaVersion
            guard version == schemaVersion else {
                throw HimixError("\(fileName): schema version \(version); this app reads version \(schemaVersion)")
            }
            try refuseTiles(data)
            manifest = try decoder.decode(Manifest.self, from: data)
        } catch let error as DecodingError {
            throw HimixError("\(fileName): \(error.firstProblem)")
        }
        try checkFields(data)
        try manifest.check()
        return manifest
    }

    private static var decoder: JSONDecoder {
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        return decoder
    }

    private func check() throws {
        func require(_ holds: Bool, _ field: String, _ problem: String) throws {
            if !holds { throw HimixError("\(Self.fileName): \(field): \(problem)") }
        }
        let missing = Self.roles.filter { (roles[$0] ?? []).isEmpty }
        try require(missing.isEmpty, "roles", "no file for \(missing.joined(separator: ", "))")
        guard target == "coreml" else {
            throw HimixError(
                "\(Self.fileName): a bundle for \(target); this app takes `himix export --target coreml`")
        }
        try require(Self.isName(name), "name", "not at most 128 of A-Z a-z 0-9 . _ -, no dot or dash in front")
        try checkFiles()
        let sizes = [
            ("context_capacity", contextCapacity), ("vision_tokens", visionTokens),
            ("preprocessing.image_size", preprocessing.imageSize), ("model.vocab_size", model.vocabSize),
            ("model.hidden_size", model.hiddenSize), ("model.num_attention_heads", model.numAttentionHeads),
            ("model.num_key_value_heads", model.numKeyValueHeads), ("model.head_dim", model.headDim),
            ("generation.max_new_tokens", generation.maxNewTokens),
        ]
        for (field, value) in sizes {
            try require((1...(1 << 24)).contains(value), field, "\(value) is out of range")
        }
        let side = model.visionConfig?.imageSize ?? preprocessing.imageSize
        try require(preprocessing.imageSize <= 1 << 13, "preprocessing.image_size", "out of range")
        try require(preprocessing.imageSize == side, "preprocessing.image_size", "not the model's, \(side)")
        try require(Self.isDigest(selftest.pixelsSha256), "selftest.pixels_sha256", "not 64 hexadecimal digits")
        let tokens = selftest.tokenIds.allSatisfy { (0..<model.vocabSize).contains($0) }
        try require(tokens, "selftest.token_ids", "no such token")
        try require((1...1024).contains(model.numHiddenLayers), "model.num_hidden_layers", "out of range")
        try require(["himix", "vanilla"].contains(model.architecture), "model.architecture", "not himix or vanilla")
        if let layers = model.injection?.layers {
            let rising = zip(layers, layers.dropFirst()).allSatisfy(<)
            let inside = layers.allSatisfy { (0..<model.numHiddenLayers).contains($0) }
            try require(!layers.isEmpty && rising && inside, "model.injection.layers", "not rising layer numbers")
        }
        let sharing = model.injection?.sharing ?? "none"
        try require(["none", "uniform", "levels"].contains(sharing), "model.injection.sharing", "not known")
        let levels = sharing == "levels" ? model.visionConfig?.featureLayers?.count ?? 1 : 1
        let injected = model.injection?.layers?.count ?? model.numHiddenLayers
        try require(
            (1...injected).contains(levels), "model.vision_config.feature_layers",
            "not at least one and at most as many as layers see the image")
        try require(generation.temperature.isFinite, "generation.temperature", "not a number")
        try require(generation.temperature >= 0, "generation.temperature", "below 0")
        try require(generation.topP > 0 && generation.topP <= 1, "generation.top_p", "outside (0, 1]")
    }
}
