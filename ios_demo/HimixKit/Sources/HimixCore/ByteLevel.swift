/// GPT-2's spelling of bytes as printable characters, in which byte-level vocabularies are written.
enum ByteLevel {
    /// byte -> character.
    static let characters: [Unicode.Scalar] = {
        let printable = Set(Array(0x21...0x7e) + Array(0xa1...0xac) + Array(0xae...0xff))
        var next: UInt32 = 0x100
        return (0..<256).map { byte in
            if printable.contains(byte) { return Unicode.Scalar(UInt8(byte)) }
            defer { next += 1 }
            return Unicode.Scalar(next)!
        }
    }()

    private static let bytes = Dictionary(uniqueKeysWithValues: zip(characters, UInt8.min...UInt8.max))

    /// What a token stands for: the spelled bytes, or its own UTF-8 if it is not spelled that way (added tokens).
    static func decode(_ token: String) -> [UInt8] {
        var decoded = [UInt8]()
        for scalar in token.unicodeScalars {
            guard let byte = bytes[scalar] else { return Array(token.utf8) }
            decoded.append(byte)
        }
        return decoded
    }
}
