import Foundation
import XCTest

@testable import HimixCore

/// What Python computed, as `ios_demo/testing/goldens.py` wrote it. `make test-ios` makes it and says where it is.
struct Goldens: Decodable {
    struct Kind: Decodable {
        let first: UInt32
        let kind: String

        init(from decoder: any Decoder) throws {
            var pair = try decoder.unkeyedContainer()
            (first, kind) = (try pair.decode(UInt32.self), try pair.decode(String.self))
        }
    }

    struct Text: Decodable {
        let text: String
        let ids: [Int]
        let decoded: String
    }

    struct Stream: Decodable {
        let ids: [Int]
        let pieces: [String]
    }

    struct TokenizerCases: Decodable {
        let texts: [Text]
        let streams: [Stream]
    }

    struct Chat: Decodable {
        let messages: [[String]]?
        let next: String?
        let ids: [Int]
    }

    struct Resized: Decodable {
        let file: String
        let side: Int
        let filter: String
        let sha256: String
    }

    struct Upright: Decodable {
        let orientation: Int
        let width: Int
        let sha256: String
    }

    struct Transparent: Decodable {
        let file: String
        let width: Int
        let height: Int
        let sha256: String
    }

    struct Probabilities: Decodable {
        let logits: [Float]
        let temperature: Double
        let topP: Double
        let probabilities: [Double]
        let greedy: Int
    }

    struct Shown: Decodable, Equatable {
        let text: String
        let stopped: Bool

        init(from decoder: any Decoder) throws {
            var pair = try decoder.unkeyedContainer()
            (text, stopped) = (try pair.decode(String.self), try pair.decode(Bool.self))
        }
    }

    struct Stop: Decodable {
        let stops: [String]
        let pieces: [String]
        let shown: [Shown]
        let rest: String
    }

    struct KV: Decodable {
        let shape: [Int]
        let modelId: String
        let keySha256: String
    }

    struct Question: Decodable {
        let image: String
        let prompt: String
        let tokens: [Int]
        let text: String
        let promptTokens: Int
        let finish: String
    }

    struct Turn: Decodable {
        let chat: String
        let prompt: String
        let limit: Int?
        let tokens: [Int]
    }

    let kinds: [Kind]
    let tokenizers: [String: TokenizerCases]
    let chats: [String: [Chat]]
    let stripped: [[String]]
    let resized: [Resized]
    let transparent: Transparent
    let upright: [Upright]
    let probabilities: [Probabilities]
    let stops: [Stop]
    let imageKv: KV
    let questions: [Question]
    let descriptions: [Question]
    let chat: [Turn]

    static let shared: Goldens = {
        do {
            let decoder = JSONDecoder()
            decoder.keyDecodingStrategy = .convertFromSnakeCase
            return try decoder.decode(Goldens.self, from: Data(contentsOf: url("goldens.json")))
        } catch {
            fatalError("goldens.json: \(error)")
        }
    }()

    static let folder = folder("HIMIX_GOLDENS")
    static let bundle = folder("HIMIX_BUNDLE")

    static func url(_ name: String) -> URL { folder.appendingPathComponent(name) }

    /// A file that the engine's process reads, too.
    static func exchange(_ name: String) -> URL { url("exchange").appendingPathComponent(name) }

    static func image(_ name: String) throws -> RGBImage { try readPPM(url(name)) }

    private static func folder(_ variable: String) -> URL {
        guard let path = ProcessInfo.processInfo.environment[variable] else {
            fatalError("\(variable) is not set; `make test-ios` makes what these tests compare with and runs them")
        }
        return URL(fileURLWithPath: path, isDirectory: true)
    }
}

/// A binary PPM as Pillow writes it: "P6\nWIDTH HEIGHT\n255\n" and the pixels.
func readPPM(_ url: URL) throws -> RGBImage {
    let data = try Data(contentsOf: url)
    let lines = data.split(separator: UInt8(ascii: "\n"), maxSplits: 3, omittingEmptySubsequences: false)
    let size = String(decoding: lines[1], as: UTF8.self).split(separator: " ").compactMap { Int($0) }
    return try RGBImage(width: size[0], height: size[1], pixels: Array(lines[3]))
}

/// The message of the `HimixError` that `body` has to throw.
func refusal(
    _ body: @autoclosure () throws -> Any, file: StaticString = #filePath, line: UInt = #line
) -> String {
    do {
        _ = try body()
        XCTFail("was not refused", file: file, line: line)
        return ""
    } catch let error as HimixError {
        return error.localizedDescription
    } catch {
        XCTFail("another error: \(error)", file: file, line: line)
        return ""
    }
}
