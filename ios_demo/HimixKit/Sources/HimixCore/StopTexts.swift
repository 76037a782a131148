/// Ends an answer where a given text appears, without ever showing a part of that text.
///
/// Compares Unicode scalars: what looks like one character may come in two pieces.
struct StopTexts {
    private let texts: [[Unicode.Scalar]]
    private var held: [Unicode.Scalar] = []

    init(_ texts: [String]) {
        self.texts = texts.filter { !$0.isEmpty }.map { Array($0.unicodeScalars) }
    }

    /// What may be shown after `text` came, and whether a stop text was found.
    mutating func feed(_ text: String) -> (shown: String, stopped: Bool) {
        held += text.unicodeScalars
        let found = held.indices.first { i in texts.contains { held[i...].starts(with: $0) } }
        if let found {
            defer { held = [] }
            return (string(held[..<found]), true)
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
