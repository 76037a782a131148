/// Tokenizer and chat template of one model. What a user types is never read as a special token.
public struct TextProcessor: Sendable {
    public let tokenizer: Tokenizer
    public let template: ChatTemplate
    /// Tokens that end an answer.
    public let stopIds: Set<Int>

    /// - Throws: `HimixError`: the template's stop texts are not tokens.
    public init(tokenizer: Tokenizer, template: ChatTemplate) throws {
        (self.tokenizer, self.template) = (tokenizer, template)
        stopIds = Set(
            try template.stop.map { stop in
                guard let id = tokenizer.id(of: stop) else {
                    throw HimixError("chat_template: \"\(stop)\" is not a token of \(Tokenizer.fileName)")
                }
                return id
            })
    }

    /// Composed characters have fewer bytes than their parts.
    private static let normalizing = 4

    /// - Throws: `HimixError`: a prompt that cannot be `room` tokens, before it is cut into them.
    func checkLength(_ prompt: String, room: Int) throws {
        if prompt.utf8.count / Self.normalizing > max(room, 0) * tokenizer.longest {
            throw HimixError(
                "the prompt does not fit: it has \(prompt.utf8.count) bytes, the cache has room for \(room) tokens; "
                    + "shorten it or start a new chat")
        }
    }

    /// Token ids of a whole conversation, up to where the assistant's next answer starts.
    ///
    /// - Throws: `HimixError`: a user message is empty.
    public func encodeChat(_ messages: [Message]) throws -> [Int] {
        var messages = messages
        if !template.defaultSystem.isEmpty, messages.first?.role != .system {
            messages.insert(Message(.system, template.defaultSystem), at: 0)
        }
        let turns = try messages.flatMap(turn)
        return encode([.template(template.bos)] + turns + [.template(template.assistant.prefix)])
    }

    /// Token ids of a further user message behind a finished answer, up to where the next answer starts.
    ///
    /// The answer's stop token is the last that was generated and not yet in the cache, so it comes first.
    public func encodeNextTurn(_ text: String) throws -> [Int] {
        let turn = try turn(Message(.user, text))
        return encode([.template(template.assistant.suffix)] + turn + [.template(template.assistant.prefix)])
    }

    /// A piece of a rendered conversation: written by the template, or by a person.
    private enum Part {
        case template(String)
        case person(String)
    }

    private func turn(_ message: Message) throws -> [Part] {
        let content = stripped(message.content)
        if message.role == .user, content.isEmpty {
            throw HimixError("the prompt is empty; ask something about the image")
        }
        let around = try template.wrapping(message.role)
        return [.template(around.prefix), .person(content), .template(around.suffix)]
    }

    /// Special tokens count only where the template writes them; a run of text between two of them is encoded in one
    /// go, so that the ids equal those of the rendered string.
    private func encode(_ parts: [Part]) -> [Int] {
        var (ids, run) = ([Int](), "")
        for part in parts {
            switch part {
            case .person(let text): run += text
            case .template(let text):
                for piece in tokenizer.splitSpecial(text) {
                    switch piece {
                    case .text(let plain): run += plain
                    case .token(let id):
                        ids += tokenizer.encode(run) + [id]
                        run = ""
                    }
                }
            }
        }
        return ids + tokenizer.encode(run)
    }
}

/// `text` without white space at its ends, by the definition of Python's `str.strip`.
func stripped(_ text: String) -> String {
    func isSpace(_ scalar: Unicode.Scalar) -> Bool {
        switch scalar.value {
        case 0x09...0x0d, 0x1c...0x20, 0x85, 0xa0, 0x1680, 0x2000...0x200a, 0x2028, 0x2029, 0x202f, 0x205f, 0x3000: true
        default: false
        }
    }
    let scalars = text.unicodeScalars
    guard let first = scalars.firstIndex(where: { !isSpace($0) }),
        let last = scalars.lastIndex(where: { !isSpace($0) })
    else { return "" }
    return String(scalars[first...last])
}
