/// Ends an answer where a given text appears, without ever showing a part of that text.
///
/// Compares Unicode scalars: what looks like one character may come in two pieces.
struct StopTexts {
    private let texts: [[Unicode.Scalar]]
    private var held: [Unicode.Scalar] = []

    /// - Throws: `HimixError`: an empty text.
    init(_ texts: [String]) throws {
        guard !texts.contains("") else {
            throw HimixError("a stop text is empty; every answer would end before it begins")
        }
        self.texts = texts.map { Array($0.unicodeScalars) }
    }

    /// What may be shown after `text` came, and whether a stop text was found.
    ///
    /// Of several the one that is complete first counts, however the text was cut into tokens.
    mutating func feed(_ text: String) -> (shown: String, stopped: Bool) {
        held += text.unicodeScalars
        let found = texts.compactMap { text in
            held.indices.first { held[$0...].starts(with: text) }.map { (end: $0 + text.count, start: $0) }
        }
        if let (_, start) = found.min(by: { ($0.end, $0.start) < ($1.end, $1.start) }) {
            defer { held = [] }
            return (string(held[..<start]), true)
        }
        let keep = texts.map(overlap).max() ?? 0
        defer { held = held.suffix(keep) }
        return (string(held.dropLast(keep)), false)
    }

    /// What was held back when the answer ended by itself.
    mutating func rest() -> String {
        defer { held = [] }
        return string(held[...])
    }

    /// Length of the longest end of the held text that is a beginning of `stop`.
    private func overlap(_ stop: [Unicode.Scalar]) -> Int {
        let most = min(stop.count - 1, held.count)
        return stride(from: most, to: 0, by: -1).first { stop.starts(with: held.suffix($0)) } ?? 0
    }

    private func string(_ scalars: ArraySlice<Unicode.Scalar>) -> String {
        var view = String.UnicodeScalarView()
        view.append(contentsOf: scalars)
        return String(view)
    }
}
