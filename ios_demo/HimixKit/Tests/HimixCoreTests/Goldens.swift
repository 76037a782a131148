import Foundation
import XCTest

@testable import HimixCore

/// The conformance suite (conformance/README.md). `make test-ios` makes it and says where it is.
enum Goldens {
    struct Suite: Decodable {
        let tokenizers: [String]
    }

    struct Characters: Decodable {
        struct Kind: Decodable {
            let first: UInt32
            let kind: String

            init(from decoder: any Decoder) throws {
                var pair = try decoder.unkeyedContainer()
                (first, kind) = (try pair.decode(UInt32.self), try pair.decode(String.self))
            }
        }

        let kinds: [Kind]
        let stripped: [[String]]
    }

    struct TokenizerCases: Decodable {
        struct Text: Decodable {
            let text: String
            let ids: [Int]
            let pieces: [String]
            let decoded: String
            let question: [Int]?
            let nextTurn: [Int]?
        }

        struct Stream: Decodable {
            let ids: [Int]
            let pieces: [String]
        }

        struct Conversation: Decodable {
            let messages: [[String]]
            let ids: [Int]
        }

        let rows: Int
        let texts: [Text]
        let streams: [Stream]
        let conversations: [Conversation]
        let empty: [String]
    }

    struct Image: Decodable {
        struct Upright: Decodable {
            let width: Int
            let height: Int
            let sha256: String
        }

        struct Resized: Decodable {
            let method: String
            let size: Int
            let sha256: String
        }

        let raw: String
        let width: Int
        let height: Int
        let channels: Int
        let orientation: Int
        let upright: Upright
        let resized: [Resized]
    }

    struct Sampling: Decodable {
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

        let probabilities: [Probabilities]
        let stops: [Stop]
    }

    struct Question: Decodable {
        let image: String
        let pixelsSha256: String
        let prompt: String
        let promptIds: [Int]
        let tokenIds: [Int]
        let text: String
        let finishReason: String
    }

    struct Conversations: Decodable {
        struct Chat: Decodable {
            let images: [String]
            let system: String?
        }

        struct Turn: Decodable {
            let chat: String
            let prompt: String
            let limit: Int
            let tokenIds: [Int]
        }

        let chats: [String: Chat]
        let turns: [Turn]
    }

    struct SelfTest: Decodable {
        let image: String
        let wrongImage: String
    }

    struct KV: Decodable {
        let file: String
        let image: String
        let shape: [Int]
        let modelId: String
        let nextPosition: Int
        let keySha256: String
        let valueSha256: String
        let prompt: String
        let tokenIds: [Int]
    }

    struct Answers: Decodable {
        let limit: Int
        let questions: [Question]
        let descriptions: [Question]
        let conversations: Conversations
        let selfTest: SelfTest
        let imageKv: KV
    }

    static let images: [String: Image] = json("images.json")
    static let sampling: Sampling = json("sampling.json")
    static let characters: Characters = json("characters.json")
    static let answers: Answers = json("answers/\(bundle.lastPathComponent).json")
    static let tokenizers: [String: TokenizerCases] = {
        let suite: Suite = json("suite.json")
        let cases = suite.tokenizers.map { name -> (String, TokenizerCases) in
            (name, json("tokenizers/\(name)/cases.json"))
        }
        return Dictionary(uniqueKeysWithValues: cases)
    }()

    static let folder = folder("HIMIX_SUITE")
    static let bundle = folder("HIMIX_BUNDLE")
    /// What the engine's process reads and writes, too.
    static let engine = folder("HIMIX_ENGINE")

    static func url(_ name: String) -> URL { folder.appendingPathComponent(name) }

    static func tokenizer(_ name: String) throws -> Tokenizer {
        try Tokenizer(contentsOf: url("tokenizers/\(name)/tokenizer.json"), rows: tokenizers[name]!.rows)
    }

    static func exchange(_ name: String) -> URL { engine.appendingPathComponent("exchange/\(name)") }

    /// One of the suite's images, over white, turned as it is stored.
    static func stored(_ name: String) throws -> RGBImage {
        let facts = images[name]!
        let pixels = [UInt8](try Data(contentsOf: url(facts.raw)))
        if facts.channels == 4 {
            return try RGBImage(width: facts.width, height: facts.height, straightRGBA: pixels)
        }
        return try RGBImage(width: facts.width, height: facts.height, pixels: pixels)
    }

    static func image(_ name: String) throws -> RGBImage { try stored(name).upright(images[name]!.orientation) }

    static func json<Value: Decodable>(_ name: String) -> Value {
        do {
            let decoder = JSONDecoder()
            decoder.keyDecodingStrategy = .convertFromSnakeCase
            return try decoder.decode(Value.self, from: Data(contentsOf: url(name)))
        } catch {
            fatalError("\(name): \(error)")
        }
    }

    private static func folder(_ variable: String) -> URL {
        guard let path = ProcessInfo.processInfo.environment[variable] else {
            fatalError("\(variable) is not set; `make test-ios` makes what these tests compare with and runs them")
        }
        return URL(fileURLWithPath: path, isDirectory: true)
    }
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
