/// Bytes of a text that is searched for special tokens.
private let longestText = 4096

/// What stands around a message of each role, and which tokens end an answer. Data, not a program.
public struct ChatTemplate: Decodable, Sendable {
    /// What is written before and behind a message.
    public struct Wrapping: Decodable, Sendable {
        public let prefix: String
        public let suffix: String

        public init(from decoder: any Decoder) throws {
            var pair = try decoder.unkeyedContainer()
            (prefix, suffix) = (try pair.decode(String.self), try pair.decode(String.self))
            let short = [prefix, suffix].allSatisfy { $0.utf8.count <= longestText }
            guard pair.isAtEnd, short else {
                throw DecodingError.dataCorruptedError(in: pair, debugDescription: "not two short texts")
            }
        }

        init(prefix: String, suffix: String) {
            (self.prefix, self.suffix) = (prefix, suffix)
        }
    }

    public let user: Wrapping
    public let assistant: Wrapping
    /// Nil where the model knows no system messages.
    public let system: Wrapping?
    public let stop: [String]
    public let bos: String
    public let defaultSystem: String
    /// White space before an answer in a history; a model that answers says it itself.
    public let said: String

    private enum Keys: String, CodingKey {
        case user, assistant, system, stop, bos, defaultSystem, said
    }

    public init(from decoder: any Decoder) throws {
        let fields = try decoder.container(keyedBy: Keys.self)
        user = try fields.decode(Wrapping.self, forKey: .user)
        assistant = try fields.decode(Wrapping.self, forKey: .assistant)
        func text(_ key: Keys) throws -> String {
            fields.contains(key) ? try fields.decode(String.self, forKey: key) : ""
        }
        system = try fields.decodeIfPresent(Wrapping.self, forKey: .system)
        stop = try fields.decode([String].self, forKey: .stop)
        (bos, defaultSystem, said) = (try text(.bos), try text(.defaultSystem), try text(.said))
        guard !stop.isEmpty else {
            throw DecodingError.dataCorruptedError(
                forKey: .stop, in: fields, debugDescription: "no token ends an answer")
        }
        guard system != nil || defaultSystem.isEmpty else {
            throw DecodingError.dataCorruptedError(
                forKey: .defaultSystem, in: fields, debugDescription: "the template has no system")
        }
        guard bos.utf8.count <= longestText else {
            throw DecodingError.dataCorruptedError(forKey: .bos, in: fields, debugDescription: "not a short text")
        }
    }

    /// - Throws: `HimixError`: the model knows no messages of this role.
    func wrapping(_ role: Message.Role) throws -> Wrapping {
        switch role {
        case .system:
            guard let system else { throw HimixError("this model's chat template has no system messages") }
            return system
        case .user: return user
        case .assistant: return Wrapping(prefix: assistant.prefix + said, suffix: assistant.suffix)
        }
    }
}

/// One turn of a conversation.
public struct Message: Sendable {
    public enum Role: String, Sendable { case system, user, assistant }

    public let role: Role
    public let content: String

    public init(_ role: Role, _ content: String) {
        (self.role, self.content) = (role, content)
    }
}
