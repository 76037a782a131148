import Foundation
import XCTest

@testable import HimixCore

final class TokenizerTests: XCTestCase {
    func testIdsAndTextsOfEveryKind() throws {
        for (name, cases) in Goldens.tokenizers {
            let tokenizer = try Goldens.tokenizer(name)
            XCTAssertGreaterThan(cases.texts.count, 400)
            for text in cases.texts {
                XCTAssertEqual(tokenizer.encode(text.text), text.ids, "\(name): \(text.text.debugDescription)")
                let decoded = tokenizer.decode(text.ids)
                XCTAssertTrue(decoded.unicodeScalars.elementsEqual(text.decoded.unicodeScalars), "\(name): \(decoded)")
            }
        }
        XCTAssertEqual(
            Goldens.tokenizers.keys.sorted(),
            [
                "llama-bpe", "nano", "nano-digits", "nano-llama-bpe", "nano-qwen2", "nano-smollm", "qwen2", "smollm2",
            ])
    }

    func testStreamsOfArbitraryTokensComeInTheSamePieces() throws {
        for (name, cases) in Goldens.tokenizers {
            let tokenizer = try Goldens.tokenizer(name)
            let streams = cases.streams.map { ($0.ids, $0.pieces) } + cases.texts.map { ($0.ids, $0.pieces) }
            for (ids, expected) in streams {
                var stream = TextStream(tokenizer)
                let pieces = ids.map { stream.step($0) }
                let equal = zip(pieces, expected).allSatisfy { $0.unicodeScalars.elementsEqual($1.unicodeScalars) }
                XCTAssertTrue(equal, "\(name) \(ids)")
            }
        }
    }

    /// Python's tokenizers may know a newer Unicode than this system: what is not assigned here is of no kind.
    func testCharactersAreOfTheSameKind() {
        let runs = Goldens.characters.kinds
        var (different, newer) = ([String](), 0)
        for (run, next) in zip(runs, runs.dropFirst()) {
            for code in run.first..<next.first {
                guard let scalar = Unicode.Scalar(code), "\(ScalarKind(scalar))" != run.kind else { continue }
                if scalar.properties.generalCategory == .unassigned {
                    newer += 1
                } else {
                    different.append(String(code, radix: 16))
                }
            }
        }
        XCTAssertEqual(different.prefix(10), [])
        XCTAssertLessThan(newer, 20_000)
        XCTAssertGreaterThan(runs.count, 500)
    }

    func testChatTemplatesAndWhatAUserTypes() throws {
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        for (name, cases) in Goldens.tokenizers {
            let file = try Data(contentsOf: Goldens.url("tokenizers/\(name)/chat_template.json"))
            let text = try TextProcessor(
                tokenizer: Goldens.tokenizer(name), template: decoder.decode(ChatTemplate.self, from: file))
            for golden in cases.conversations {
                let messages = golden.messages.map { Message(Message.Role(rawValue: $0[0])!, $0[1]) }
                XCTAssertEqual(try text.encodeChat(messages), golden.ids, "\(name): \(golden)")
            }
            for golden in cases.texts where golden.question != nil {
                let message = Message(.user, golden.text)
                XCTAssertEqual(try text.encodeChat([message]), golden.question, "\(name): \(golden.text)")
                XCTAssertEqual(try text.encodeNextTurn(golden.text), golden.nextTurn, "\(name): \(golden.text)")
            }
            for prompt in cases.empty {
                XCTAssertTrue(refusal(try text.encodeNextTurn(prompt)).hasPrefix("the prompt is empty"))
            }
        }
    }

    func testStripping() {
        for pair in Goldens.characters.stripped {
            let found = stripped(pair[0])
            XCTAssertTrue(found.unicodeScalars.elementsEqual(pair[1].unicodeScalars), pair[0].debugDescription)
        }
    }

    func testUnknownKindsAreRefusedByName() throws {
        let file = try Data(contentsOf: Goldens.url("tokenizers/qwen2/tokenizer.json"))
        let original = try JSONSerialization.jsonObject(with: file)
        func changed(_ field: String, _ value: Any) throws -> Data {
            var file = original as! [String: Any]
            file[field] = value
            return try JSONSerialization.data(withJSONObject: file)
        }
        func model(_ field: String, _ value: Any) throws -> Data {
            var model = (original as! [String: Any])["model"] as! [String: Any]
            model[field] = value
            return try changed("model", model)
        }
        let words: [String: Any] = ["type": "Split", "behavior": "Isolated", "pattern": ["Regex": "\\w+"]]
        let bytes: [String: Any] = ["type": "ByteLevel", "add_prefix_space": true]
        let added: [String: Any] = [
            "id": 9, "content": "x", "special": false, "single_word": true, "lstrip": false, "rstrip": false,
            "normalized": false,
        ]
        let cases: [(Data, String)] = [
            (try model("type", "Unigram"), "model \"Unigram\" is not supported"),
            (try model("byte_fallback", true), "byte_fallback (SentencePiece) is not supported"),
            (try model("end_of_word_suffix", "</w>"), "subword prefix or suffix is not supported"),
            (try model("merges", [["a", "nothing"]]), "a nothing is not in the vocabulary"),
            (try model("merges", ["onlyone"]), "a merge that is not a pair"),
            (try model("vocab", ["a": -1]), "an id is out of range"),
            (try model("vocab", 3), "model.vocab: not a"),
            (try changed("pre_tokenizer", ["type": "Metaspace"]), "pre_tokenizer \"Metaspace\" is not supported"),
            (try changed("pre_tokenizer", NSNull()), "pre_tokenizer \"none\" is not supported"),
            (try changed("pre_tokenizer", words), "Split by \"\\w+\" is not supported"),
            (try changed("pre_tokenizer", bytes), "ByteLevel with add_prefix_space is not supported"),
            (try changed("normalizer", ["type": "Lowercase"]), "normalizer \"Lowercase\" is not supported"),
            (try changed("decoder", ["type": "WordPiece"]), "decoder \"WordPiece\" is not supported"),
            (try changed("added_tokens", [added]), "added token \"x\" with matching rules is not supported"),
            (Data("{".utf8), "not valid JSON"),
        ]
        for (data, problem) in cases {
            let message = refusal(try Tokenizer(data: data))
            XCTAssertTrue(message.hasPrefix("tokenizer.json: ") && message.contains(problem), message)
        }
    }
}
