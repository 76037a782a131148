import Foundation

extension Manifest {
    private static let maxFiles = 10_000

    /// Fields that this app knows, by the object they are in: what another one means is not known here.
    private static let known: [String: Set<String>] = [
        "": [
            "schema_version", "name", "target", "roles", "files", "model", "preprocessing", "quantisation",
            "chat_template", "generation", "context_capacity", "vision_tokens", "image_kv_id", "tools", "provenance",
            "weights", "parity", "selftest",
        ],
        "preprocessing": ["image_size", "method"],
        "quantisation": ["precision", "bits", "group_size", "method", "activations"],
        "chat_template": ["user", "assistant", "system", "stop", "bos", "default_system", "said"],
        "generation": ["max_new_tokens", "temperature", "top_p"],
        "selftest": ["image", "prompt", "pixels_sha256", "token_ids", "text", "ends", "decisive"],
        "model.injection": ["layers", "sharing", "positions", "mixing", "slots"],
        "roles": ["vision_encoder", "vision_injector", "decoder"],
        "file": ["path", "bytes", "sha256"],
    ]

    /// A decoder says of a number that is not whole, or too large, only that this is no JSON.
    private static let whole = [
        "schema_version", "context_capacity", "vision_tokens", "preprocessing.image_size", "generation.max_new_tokens",
        "model.num_hidden_layers", "model.num_key_value_heads", "model.head_dim", "model.vocab_size",
        "model.hidden_size", "model.num_attention_heads", "model.injection.layers",
        "model.vision_config.feature_layers", "selftest.token_ids",
    ]

    /// - Throws: `HimixError` naming a field that is not a whole number and has to be one.
    static func checkNumbers(_ data: Data) throws {
        guard let root = try? JSONSerialization.jsonObject(with: data) as? [String: Any] else {
            throw HimixError("\(fileName): not valid JSON")
        }
        func check(_ value: Any?, _ field: String) throws {
            for item in value as? [Any] ?? [] { try check(item, field) }
            if let number = (value as? NSNumber)?.doubleValue, number != number.rounded() || abs(number) > 0x1p53 {
                throw HimixError("\(fileName): \(field): not a whole number in its range")
            }
        }
        for field in whole {
            let value = field.split(separator: ".").reduce(root as Any?) { ($0 as? [String: Any])?[String($1)] }
            try check(value, field)
        }
        for record in records(root) { try check((record as? [String: Any])?["bytes"], "bytes") }
    }

    /// A model whose pictures are tiles in its text is refused by name, whichever of its fields says that it is one.
    static func refuseTiles(_ data: Data) throws {
        let root = try? JSONSerialization.jsonObject(with: data) as? [String: Any]
        func field(_ place: String, _ name: String) -> Any? {
            let value = (root?[place] as? [String: Any])?[name]
            return value is NSNull ? nil : value
        }
        let method = field("preprocessing", "method") as? String
        let parts = [field("preprocessing", "layout"), field("model", "images"), field("chat_template", "image")]
        if method == "pillow-tiles" || parts.contains(where: { $0 != nil }) {
            let taken = [Preprocessing.Method.bilinear, .bicubic].map(\.rawValue).joined(separator: " and ")
            throw HimixError(
                "\(fileName): this app does not take models whose pictures are tiles in the text (pillow-tiles) "
                    + "yet; it takes \(taken)")
        }
    }

    private static func records(_ root: [String: Any]) -> [Any] {
        let roles = (root["roles"] as? [String: Any] ?? [:]).values.compactMap { $0 as? [Any] }
        return roles.joined() + (root["files"] as? [Any] ?? [])
    }

    /// - Throws: `HimixError` naming a field that is not in the schema.
    static func checkFields(_ data: Data) throws {
        guard let root = try? JSONSerialization.jsonObject(with: data) as? [String: Any] else {
            throw HimixError("\(fileName): not valid JSON")
        }
        func only(_ object: Any?, _ kind: String, _ place: String) throws {
            guard let object = object as? [String: Any], let names = known[kind] else { return }
            if let odd = object.keys.sorted().first(where: { !names.contains($0) }) {
                let field = place.isEmpty ? odd : "\(place).\(odd)"
                throw HimixError("\(fileName): \(field): not known to this app; refused")
            }
        }
        for place in ["", "preprocessing", "quantisation", "chat_template", "generation", "selftest", "roles"] {
            try only(place.isEmpty ? root : root[place], place, place)
        }
        try only((root["model"] as? [String: Any])?["injection"], "model.injection", "model.injection")
        for record in records(root) { try only(record, "file", "files") }
    }

    /// - Throws: `HimixError` for a file that has no plain path or digest, or a path that two files have.
    func checkFiles() throws {
        func wrong(_ problem: String) -> HimixError { HimixError("\(Self.fileName): \(problem)") }
        let records = Self.roles.flatMap { roles[$0] ?? [] } + files
        guard records.count <= Self.maxFiles else { throw wrong("files: more than \(Self.maxFiles)") }
        var seen: [String: FileRecord] = [:]
        for record in records {
            try Self.checkPath(record.path)
            guard (0...(1 << 40)).contains(record.bytes) else { throw wrong("\(record.path): bytes: out of range") }
            guard Self.isDigest(record.sha256) else { throw wrong("\(record.path): sha256: not 64 hexadecimal digits") }
            let folded = record.path.lowercased()  // many a file system does not tell them apart
            if let other = seen[folded], other != record {
                throw wrong("\(record.path) is listed as two different files; refused")
            }
            seen[folded] = record
        }
        try Self.checkPath(selftest.image)
        for path in [Tokenizer.fileName, selftest.image] where !records.contains(where: { $0.path == path }) {
            throw wrong("files: no record of \(path)")
        }
    }

    static func isDigest(_ text: String) -> Bool {
        text.utf8.count == 64 && text.utf8.allSatisfy { "0123456789abcdef".utf8.contains($0) }
    }

    /// Letters, digits, ".", "_" and "-": nothing that a shell or a file system reads otherwise.
    static func isName(_ text: String) -> Bool {
        let bytes = Array(text.utf8)
        func isWord(_ byte: UInt8) -> Bool {
            byte == UInt8(ascii: "_") || ("a"..."z").contains(Unicode.Scalar(byte))
                || ("A"..."Z").contains(Unicode.Scalar(byte)) || ("0"..."9").contains(Unicode.Scalar(byte))
        }
        guard let first = bytes.first, isWord(first), bytes.count <= 128 else { return false }
        return bytes.allSatisfy { isWord($0) || $0 == UInt8(ascii: ".") || $0 == UInt8(ascii: "-") }
    }

    /// A plain path below the folder, spelled in the one way there is. By bytes: a combining mark must not hide a slash.
    private static func checkPath(_ path: String) throws {
        let bytes = Array(path.utf8)
        let parts = bytes.split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false)
        let climbs = parts.contains { part in
            part.isEmpty || part.count > 255 || part.elementsEqual("..".utf8) || part.elementsEqual(".".utf8)
        }
        let odd = path.unicodeScalars.contains { scalar in
            [.control, .format].contains(scalar.properties.generalCategory) || "\\:".unicodeScalars.contains(scalar)
        }
        if climbs || odd || bytes.count > 512 {
            let shown = bytes.count > 80 ? "\(String(decoding: bytes.prefix(80), as: UTF8.self))..." : path
            throw HimixError("\(fileName): path \"\(shown)\" leaves the bundle; refused")
        }
    }
}
