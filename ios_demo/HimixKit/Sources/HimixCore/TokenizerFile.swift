import Foundation

extension Tokenizer {
    static let maxBytes = 64 << 20
    public static let maxRows = 1 << 24
    private static let maxSteps = 16  // each goes over the whole text

    /// Read a tokenizer.json.
    ///
    /// - Parameter rows: of the model's embedding; no id lies beyond.
    /// - Throws: `HimixError`: the file is damaged, or describes a kind of tokenizer that this app does not have.
    public init(contentsOf url: URL, rows: Int = maxRows) throws {
        guard let size = fileSize(url) else { throw HimixError("\(Self.fileName): no such file") }
        guard size <= Self.maxBytes else {
            throw HimixError("\(Self.fileName): larger than \(Self.maxBytes >> 20) MiB; this is not a tokenizer")
        }
        guard let data = try? Data(contentsOf: url) else { throw HimixError("\(Self.fileName): cannot be read") }
        try self.init(data: data, rows: rows)
    }

    /// As above, from the file's content.
    init(data: Data, rows: Int = maxRows) throws {
        let file: TokenizerFile
        do {
            try StrictJSON.check(data)
            let decoder = JSONDecoder()
            decoder.keyDecodingStrategy = .convertFromSnakeCase  // of fields; a dictionary's keys stay as they are
            file = try decoder.decode(TokenizerFile.self, from: data)
        } catch let error as DecodingError {
            throw HimixError("\(Self.fileName): \(error.firstProblem)")
        } catch let error as HimixError {
            throw HimixError("\(Self.fileName): \(error.message)")
        }
        try self.init(file, rows)
    }

    private init(_ file: TokenizerFile, _ rows: Int) throws {
        let model = file.model
        try Self.require(model.type ?? "BPE" == "BPE", "model \"\(model.type ?? "")\"", "byte-level BPE")
        try Self.require(model.byteFallback != true, "byte_fallback (SentencePiece)", "byte-level BPE")
        let affixed = [model.continuingSubwordPrefix, model.endOfWordSuffix].contains { !($0 ?? "").isEmpty }
        try Self.require(!affixed, "subword prefix or suffix", "byte-level BPE")
        try Self.require(file.decoder?.type == "ByteLevel", "decoder \"\(file.decoder?.type ?? "none")\"", "ByteLevel")
        composes = try Self.composes(file.normalizer)
        preTokenizers = try Self.steps(file.preTokenizer)
        wholeWordsFirst = model.ignoreMerges ?? false

        guard preTokenizers.count <= Self.maxSteps else {
            throw HimixError("\(Self.fileName): more than \(Self.maxSteps) pre_tokenizers; refused")
        }
        let added = file.addedTokens ?? []
        for token in added where !token.special {
            let plain = !token.singleWord && !token.lstrip && !token.rstrip
            try Self.require(plain, "added token \"\(token.content)\" with matching rules", "added tokens without")
        }
        try Self.checkIds(model.vocab, added, rows)
        let vocabulary = model.vocab.map { (bytes: ByteLevel.decode($0.key), id: $0.value) }
        let words = Dictionary(vocabulary.map { ($0.bytes, $0.id) }, uniquingKeysWith: min)
        wholeWords = words
        byteIds = (UInt8.min...UInt8.max).map { words[[$0]] }
        merges = try Self.merges(model)

        func tokens(_ wanted: (TokenizerFile.Added) -> Bool, _ spelling: (String) -> String = { $0 }) -> [AddedToken] {
            added.filter { wanted($0) && !$0.content.isEmpty }
                .map { AddedToken(scalars: Array(spelling($0.content).unicodeScalars), id: $0.id) }
                .sorted { $0.scalars.count > $1.scalars.count }
        }
        let normalized = composes ? { (text: String) in text.precomposedStringWithCanonicalMapping } : { $0 }
        specials = tokens { $0.special }
        addedTexts = tokens { !$0.special && !$0.normalized }
        normalizedTexts = tokens({ !$0.special && $0.normalized }, normalized)
        var bytes = Dictionary(vocabulary.map { ($0.id, $0.bytes) }, uniquingKeysWith: { first, _ in first })
        for token in added {
            bytes[token.id] = token.special ? [] : ByteLevel.decode(token.content)
        }
        tokenBytes = bytes
        longest = bytes.values.map(\.count).max() ?? 1
    }

    /// - Throws: `HimixError`: an id that the model does not have, or that two tokens have.
    private static func checkIds(_ vocab: [String: Int], _ added: [TokenizerFile.Added], _ rows: Int) throws {
        guard !vocab.isEmpty, vocab.values.allSatisfy((0..<rows).contains) else {
            throw HimixError("\(fileName): model.vocab: an id is out of range (0..<\(rows)), or there is none")
        }
        var contents = Dictionary(vocab.map { ($0.value, $0.key) }) { first, _ in first }
        guard contents.count == vocab.count else {
            throw HimixError("\(fileName): model.vocab: two tokens have one id")
        }
        var ids = vocab
        for token in added {
            guard !token.content.isEmpty else { throw HimixError("\(fileName): added_tokens: one has no content") }
            guard (0..<rows).contains(token.id), (ids[token.content] ?? token.id) == token.id,
                (contents[token.id] ?? token.content) == token.content
            else {
                throw HimixError("\(fileName): added token \"\(token.content)\": its id \(token.id) is not its own")
            }
            (ids[token.content], contents[token.id]) = (token.id, token.content)
        }
    }

    private static func merges(_ model: TokenizerFile.Model) throws -> [UInt64: Merge] {
        var merges = [UInt64: Merge](minimumCapacity: model.merges.count)
        for (rank, pair) in model.merges.enumerated() {
            guard let left = model.vocab[pair.left], let right = model.vocab[pair.right],
                let id = model.vocab[pair.left + pair.right]
            else {
                throw HimixError("\(fileName): model.merges: \(pair.left) \(pair.right) is not in the vocabulary")
            }
            merges[key(left, right)] = Merge(rank: Int32(rank), id: Int32(id))
        }
        return merges
    }

    private static func composes(_ normalizer: TokenizerFile.Step?) throws -> Bool {
        guard let normalizer else { return false }
        if normalizer.type == "Sequence", (normalizer.normalizers ?? []).isEmpty { return false }
        try require(normalizer.type == "NFC", "normalizer \"\(normalizer.type)\"", "none and NFC")
        return true
    }

    private static func steps(_ step: TokenizerFile.Step?) throws -> [PreTokenizer] {
        guard let step else { throw unsupported("pre_tokenizer \"none\"", "ByteLevel, Digits, Split and Sequence") }
        switch step.type {
        case "Sequence": return try (step.pretokenizers ?? []).flatMap(steps)
        case "Digits": return [.digits(individual: step.individualDigits ?? false)]
        case "ByteLevel":
            try require(step.addPrefixSpace == false, "ByteLevel with add_prefix_space", "ByteLevel without")
            return step.useRegex ?? true ? [.words] : []
        case "Split":
            let pattern = step.pattern?.regex ?? step.pattern?.string ?? ""
            let known = step.behavior == "Isolated" && step.invert != true ? knownPatterns[pattern] : nil
            guard let known else { throw unsupported("Split by \"\(pattern)\"", "the patterns of Qwen2 and Llama 3") }
            return [known]
        default: throw unsupported("pre_tokenizer \"\(step.type)\"", "ByteLevel, Digits, Split and Sequence")
        }
    }

    /// The families' published patterns; PreTokenizer knows what they match.
    private static let knownPatterns: [String: PreTokenizer] = {
        func pattern(_ digits: String) -> String {
            #"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"# + digits
                + #"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"#
        }
        return [pattern(#"\p{N}"#): .lines(digits: 1), pattern(#"\p{N}{1,3}"#): .lines(digits: 3)]
    }()

    private static func require(_ holds: Bool, _ found: String, _ known: String) throws {
        if !holds { throw unsupported(found, known) }
    }

    private static func unsupported(_ found: String, _ known: String) -> HimixError {
        HimixError("\(fileName): \(found) is not supported; this app knows \(known)")
    }
}

/// The parts of a tokenizer.json that decide about ids, its field names in camel case.
private struct TokenizerFile: Decodable {
    struct Model: Decodable {
        let type: String?
        let vocab: [String: Int]
        let merges: [Pair]
        let byteFallback: Bool?
        let continuingSubwordPrefix: String?
        let endOfWordSuffix: String?
        let ignoreMerges: Bool?
    }

    /// "left right", or ["left", "right"].
    struct Pair: Decodable {
        let left: String
        let right: String

        init(from decoder: any Decoder) throws {
            if var pair = try? decoder.unkeyedContainer() {
                (left, right) = (try pair.decode(String.self), try pair.decode(String.self))
                guard pair.isAtEnd else {
                    throw DecodingError.dataCorruptedError(in: pair, debugDescription: "a merge that is not a pair")
                }
                return
            }
            let words = try decoder.singleValueContainer().decode(String.self).split(separator: " ")
            guard words.count == 2 else {
                throw DecodingError.dataCorrupted(
                    .init(codingPath: decoder.codingPath, debugDescription: "a merge that is not a pair"))
            }
            (left, right) = (String(words[0]), String(words[1]))
        }
    }

    struct Added: Decodable {
        let id: Int
        let content: String
        let special: Bool
        let singleWord: Bool
        let lstrip: Bool
        let rstrip: Bool
        let normalized: Bool
    }

    struct Step: Decodable {
        struct Pattern: Decodable {
            let regex: String?
            let string: String?

            private enum CodingKeys: String, CodingKey {
                case regex = "Regex"
                case string = "String"
            }
        }

        let type: String
        let pretokenizers: [Step]?
        let normalizers: [Step]?
        let addPrefixSpace: Bool?
        let useRegex: Bool?
        let individualDigits: Bool?
        let pattern: Pattern?
        let behavior: String?
        let invert: Bool?
    }

    let addedTokens: [Added]?
    let normalizer: Step?
    let preTokenizer: Step?
    let decoder: Step?
    let model: Model
}
