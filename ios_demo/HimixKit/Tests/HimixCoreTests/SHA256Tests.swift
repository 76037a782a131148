import Foundation
import XCTest

@testable import HimixCore

final class SHA256Tests: XCTestCase {
    func testKnownDigests() {
        // FIPS 180-4's examples
        XCTAssertEqual(digest(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
        XCTAssertEqual(digest("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
        XCTAssertEqual(
            digest("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1")
    }

    func testEveryLengthAroundABlockInPiecesEqualsPython() async throws {
        for length in Array(50...70) + [119, 120, 127, 128, 129, 100_000] {
            let data = Data((0..<length).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ length) })
            var hasher = PortableSHA256()
            for piece in stride(from: 0, to: length, by: 37) {
                hasher.update(data[piece..<min(piece + 37, length)])
            }
            let expected = try await Self.python(data)
            XCTAssertEqual(hex(hasher.finish()), expected, "\(length) bytes")
            XCTAssertEqual(sha256(data), expected)
        }
    }

    private func digest(_ text: String) -> String {
        var hasher = PortableSHA256()
        hasher.update(Data(text.utf8))
        return hex(hasher.finish())
    }

    @Inference
    private static func python(_ data: Data) throws -> String? {
        try PipePrograms.shared.call("sha256", [:], data).facts["sha256"] as? String
    }
}
