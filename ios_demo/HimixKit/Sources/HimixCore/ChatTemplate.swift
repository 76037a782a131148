/// What stands around a message of each role, and which tokens end an answer. Data, not a program.
public struct ChatTemplate: Decodable, Sendable {
    /// What is written before and behind a message.
    public struct Wrapping: Decodable, Sendable {
        public let prefix: String
        public let suffix: String

        public init(from decoder: any Decoder) throws {
            var pair = try decoder.unkeyedContainer()
            (prefix, suffix) = (try pair.decode(String.self), try pair.decode(String.self))
        }

        init(prefix: String, suffix: String) {
            (self.prefix, self.suffix) = (prefix, suffix)
        }
    }

    public let user: Wrapping
    public let assistant: Wrapping
    public let system: Wrapping
    public let stop: [String]
    public let bos: String
    public let defaultSystem: String

    private enum Keys: String, CodingKey {
        case user, assistant, system, stop, bos, defaultSystem
    }

    public init(from decoder: any Decoder) throws {
        let fields = try decoder.container(keyedBy: Keys.self)
        user = try fields.decode(Wrapping.self, forKey: .user)
        assistant = try fields.decode(Wrapping.self, forKey: .assistant)
        system = try fields.decodeIfPresent(Wrapping.self, forKey: .system) ?? Wrapping(prefix: "", suffix: "")
        stop = try fields.decode([String].self, forKey: .stop)
        bos = try fields.decodeIfPresent(String.self, forKey: .bos) ?? ""
        defaultSystem = try fields.decodeIfPresent(String.self, forKey: .defaultSystem) ?? ""
    }

    func wrapping(_ role: Message.Role) -> Wrapping {
        switch role {
        case .system: system
        case .user: user
        case .assistant: assistant
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
