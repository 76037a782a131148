/// How text is cut before byte pairs are merged: the steps of a tokenizer.json, each working on the pieces of the last.
enum PreTokenizer: Sendable, Equatable {
    /// GPT-2's pattern.
    case words
    /// The pattern of Qwen2 (`digits` 1) and Llama 3 (3): at most so many digits in a piece.
    case lines(digits: Int)
    /// Digits by themselves, each or in runs.
    case digits(individual: Bool)

    /// The pieces of `text`, in order; together they are `text`.
    func split(_ text: ArraySlice<Unicode.Scalar>) -> [ArraySlice<Unicode.Scalar>] {
        var pieces = [ArraySlice<Unicode.Scalar>]()
        var start = text.startIndex
        while start < text.endIndex {
            let end = pieceEnd(Scanner(text: text, start: start))
            pieces.append(text[start..<end])
            start = end
        }
        return pieces
    }

    private func pieceEnd(_ at: Scanner) -> Int {
        switch self {
        case .words:
            return at.contraction(anyCase: false) ?? at.run(of: .letter, behindSpace: true)
                ?? at.run(of: .number, behindSpace: true) ?? at.run(of: .other, behindSpace: true) ?? at.spaces()
        case .lines(let digits):
            return at.contraction(anyCase: true) ?? at.wordBehindAnything() ?? at.run(of: .number, atMost: digits)
                ?? at.run(of: .other, behindSpace: true).map(at.pastLineEnds) ?? at.upToLastLineEnd() ?? at.spaces()
        case .digits(let individual):
            if !individual, let end = at.run(of: .number) { return end }
            return at.kind(at.start) == .number ? at.start + 1 : at.firstDigit()
        }
    }
}

/// What a regular expression's classes tell apart: \p{L}, \p{N}, \s and the rest.
enum ScalarKind: Sendable {
    case letter, number, space, other

    init(_ scalar: Unicode.Scalar) {
        let properties = scalar.properties
        switch properties.generalCategory {
        case .uppercaseLetter, .lowercaseLetter, .titlecaseLetter, .modifierLetter, .otherLetter: self = .letter
        case .decimalNumber, .letterNumber, .otherNumber: self = .number
        default: self = properties.isWhitespace ? .space : .other
        }
    }
}

/// The alternatives of the patterns, each tried at `start`: where its match ends, or nil.
private struct Scanner {
    let text: ArraySlice<Unicode.Scalar>
    let start: Int

    func kind(_ i: Int) -> ScalarKind? { i < text.endIndex ? ScalarKind(text[i]) : nil }

    /// 's 't 're 've 'm 'll 'd
    func contraction(anyCase: Bool) -> Int? {
        guard text[start] == "'" else { return nil }
        let letters = text[(start + 1)...].prefix(2).map { scalar -> Unicode.Scalar in
            guard anyCase else { return scalar }
            if scalar == "\u{17f}" { return "s" }  // the long s, by case folding
            return ("A"..."Z").contains(scalar) ? Unicode.Scalar(scalar.value + 32)! : scalar
        }
        if let first = letters.first, "stmd".unicodeScalars.contains(first) { return start + 2 }
        return letters == ["r", "e"] || letters == ["v", "e"] || letters == ["l", "l"] ? start + 3 : nil
    }

    /// A run of one kind, with a blank in front of it allowed.
    func run(of wanted: ScalarKind, behindSpace: Bool = false, atMost: Int = .max) -> Int? {
        let first = behindSpace && text[start] == " " && kind(start + 1) == wanted ? start + 1 : start
        var end = first
        while end - first < atMost, kind(end) == wanted { end += 1 }
        return end > first ? end : nil
    }

    /// [^\r\n\p{L}\p{N}]?\p{L}+
    func wordBehindAnything() -> Int? {
        let other = kind(start) == .other || (kind(start) == .space && !isLineEnd(start))
        let from = other ? start + 1 : start
        guard kind(from) == .letter else { return nil }
        return Scanner(text: text, start: from).run(of: .letter)
    }

    func pastLineEnds(_ end: Int) -> Int {
        var end = end
        while end < text.endIndex, isLineEnd(end) { end += 1 }
        return end
    }

    /// \s*[\r\n]+
    func upToLastLineEnd() -> Int? {
        guard let end = run(of: .space), let last = (start..<end).last(where: isLineEnd) else { return nil }
        return last + 1
    }

    /// \s+(?!\S)|\s+ : all white space, but its last character if something follows.
    func spaces() -> Int {
        let end = run(of: .space) ?? start + 1
        return end < text.endIndex && end - start > 1 ? end - 1 : end
    }

    func firstDigit() -> Int {
        var end = start
        while let kind = kind(end), kind != .number { end += 1 }
        return end
    }

    private func isLineEnd(_ i: Int) -> Bool { text[i] == "\r" || text[i] == "\n" }
}
