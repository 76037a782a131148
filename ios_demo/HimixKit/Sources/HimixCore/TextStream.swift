/// Turns token ids into printable text as they come; holds back bytes of an unfinished character.
struct TextStream {
    private let tokenizer: Tokenizer
    private var held: [UInt8] = []

    init(_ tokenizer: Tokenizer) {
        self.tokenizer = tokenizer
    }

    /// The text that `token` completes; empty while a character is incomplete.
    mutating func step(_ token: Int) -> String {
        held += tokenizer.bytes(token)
        let text = String(decoding: held, as: UTF8.self)
        if text.unicodeScalars.last == "\u{fffd}" { return "" }
        held = []
        return text
    }

    /// What was held back when the answer ended.
    mutating func rest() -> String {
        defer { held = [] }
        return String(decoding: held, as: UTF8.self)
    }
}
