import Foundation

/// Byte-level BPE as a Hugging Face tokenizer.json describes it (GPT-2, SmolLM2, Qwen2, Llama 3).
///
/// Special tokens in a text are text; only `splitSpecial`, which is for the chat template, finds them.
public struct Tokenizer: Sendable {
    public static let fileName = "tokenizer.json"

    enum Piece: Equatable {
        case text(String)
        case token(Int)
    }

    let preTokenizers: [PreTokenizer]
    let composes: Bool  // normalises to NFC
    let wholeWordsFirst: Bool
    let byteIds: [Int?]
    let wholeWords: [[UInt8]: Int]
    let merges: [UInt64: Merge]
    let tokenBytes: [Int: [UInt8]]
    let longest: Int  // bytes of a token
    let specials: [AddedToken]  // longest first
    let addedTexts: [AddedToken]  // not special: found in any text as it was typed
    let normalizedTexts: [AddedToken]  // not special: found in normalised text

    struct Merge: Sendable {
        let rank: Int32
        let id: Int32
    }

    struct AddedToken: Sendable {
        let scalars: [Unicode.Scalar]
        let id: Int
    }

    /// The ids of `text`, without special tokens around it.
    public func encode(_ text: String) -> [Int] {
        ids(split(text, at: addedTexts)) { typed in
            let normalized = composes ? typed.precomposedStringWithCanonicalMapping : typed
            return ids(split(normalized, at: normalizedTexts), encodePlain)
        }
    }

    private func ids(_ pieces: [Piece], _ encode: (String) -> [Int]) -> [Int] {
        pieces.flatMap { piece -> [Int] in
            switch piece {
            case .token(let id): [id]
            case .text(let plain): encode(plain)
            }
        }
    }

    /// The text of `ids`, special tokens left out; bytes that are no text become U+FFFD.
    public func decode(_ ids: [Int]) -> String {
        String(decoding: ids.flatMap(bytes), as: UTF8.self)
    }

    /// The id of a token as it is written, special or not.
    public func id(of token: String) -> Int? {
        let scalars = Array(token.unicodeScalars)
        let added = (specials + addedTexts + normalizedTexts).first { $0.scalars == scalars }
        return added?.id ?? wholeWords[ByteLevel.decode(token)]
    }

    /// The bytes that a token stands for; none for a special or unknown one.
    func bytes(_ id: Int) -> [UInt8] { tokenBytes[id] ?? [] }

    func splitSpecial(_ text: String) -> [Piece] { split(text, at: specials) }

    private func split(_ text: String, at tokens: [AddedToken]) -> [Piece] {
        if tokens.isEmpty { return text.isEmpty ? [] : [.text(text)] }
        let scalars = Array(text.unicodeScalars)
        let firsts = Set(tokens.compactMap(\.scalars.first))
        var (pieces, run, i) = ([Piece](), String.UnicodeScalarView(), 0)
        func finish() {
            if !run.isEmpty { pieces.append(.text(String(run))) }
            run = String.UnicodeScalarView()
        }
        while i < scalars.count {
            let possible = firsts.contains(scalars[i])
            if possible, let token = tokens.first(where: { scalars[i...].starts(with: $0.scalars) }) {
                finish()
                pieces.append(.token(token.id))
                i += token.scalars.count
            } else {
                run.append(scalars[i])
                i += 1
            }
        }
        finish()
        return pieces
    }

    private func encodePlain(_ text: String) -> [Int] {
        var pieces = [ArraySlice(text.unicodeScalars)]
        for step in preTokenizers {
            pieces = pieces.flatMap(step.split)
        }
        return pieces.flatMap { piece in merge(piece.flatMap { Array(String($0).utf8) }) }
    }

    func lookUp(_ left: Int, _ right: Int) -> Merge? { merges[Self.key(left, right)] }

    static func key(_ left: Int, _ right: Int) -> UInt64 {
        UInt64(UInt32(truncatingIfNeeded: left)) << 32 | UInt64(UInt32(truncatingIfNeeded: right))
    }
}
