import Foundation

/// What JSONDecoder lets pass: a name twice in one object, nesting without end, other encodings than UTF-8.
enum StrictJSON {
    private static let maxDepth = 64

    /// Throws `HimixError` that says what is wrong; a decoder reads the rest.
    static func check(_ data: Data) throws {
        guard String(data: data, encoding: .utf8) != nil else { throw HimixError("not valid JSON (not UTF-8)") }
        try check([UInt8](data))
    }

    private static func check(_ bytes: [UInt8]) throws {
        var open: [Set<[UInt8]>?] = []  // for each object the names so far, for each array nil
        var isName = false
        var i = 0
        while i < bytes.count {
            switch bytes[i] {
            case UInt8(ascii: "{"), UInt8(ascii: "["):
                isName = bytes[i] == UInt8(ascii: "{")
                open.append(isName ? [] : nil)
                guard open.count <= maxDepth else { throw HimixError("not valid JSON (nested over \(maxDepth) deep)") }
            case UInt8(ascii: "}"), UInt8(ascii: "]"):
                _ = open.popLast()
                isName = false
            case UInt8(ascii: ","):
                if let scope = open.last { isName = scope != nil }
            case UInt8(ascii: "\""):
                let end = textEnd(bytes, from: i + 1)
                guard end < bytes.count else { throw HimixError("not valid JSON") }
                if isName {
                    let name = spelled(bytes[(i + 1)..<end])
                    guard open[open.count - 1]?.insert(name).inserted == true else {
                        throw HimixError("not valid JSON (\"\(String(decoding: name, as: UTF8.self))\" appears twice)")
                    }
                }
                isName = false
                i = end
            default: break
            }
            i += 1
        }
    }

    /// Where the closing quotation mark is.
    private static func textEnd(_ bytes: [UInt8], from start: Int) -> Int {
        var i = start
        while i < bytes.count, bytes[i] != UInt8(ascii: "\"") {
            i += bytes[i] == UInt8(ascii: "\\") ? 2 : 1
        }
        return i
    }

    /// A name without escapes: "\u0061" is "a".
    private static func spelled(_ raw: ArraySlice<UInt8>) -> [UInt8] {
        guard raw.contains(UInt8(ascii: "\\")) else { return Array(raw) }
        let list = Data("[\"".utf8) + Data(raw) + Data("\"]".utf8)
        let text = try? JSONDecoder().decode([String].self, from: list)
        return text.map { Array($0[0].utf8) } ?? Array(raw)
    }
}
