import Foundation
import XCTest

@testable import HimixCore

/// The hostile inputs that every client is tried with (conformance/README.md): one clear line, or the right answer.
final class HostileTests: XCTestCase {
    private struct Case: Decodable {
        let name: String
        let file: String?
        let folder: String?
        let expect: String
        let words: [String]
        let runtime: Bool?
    }

    private struct Hostile: Decodable {
        let text: String
        let ids: [Int]
        let manifests: [Case]
        let tileManifests: [Case]
        let bundles: [Case]
        let folders: [Case]
        let tokenizers: [Case]
        let imageKvs: [Case]
    }

    private static let all: Hostile = Goldens.json("hostile.json")

    func testManifests() throws {
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)
        try FileManager.default.copyItem(at: Goldens.bundle, to: folder)
        defer { try? FileManager.default.removeItem(at: folder) }
        try Self.tryAll(Self.all.manifests) { file, _ in
            try Data(contentsOf: file).write(to: folder.appendingPathComponent(Manifest.fileName))
            _ = try ModelBundle(verifying: folder).loadText()
        }
    }

    /// This app takes no model whose pictures are tiles, so it refuses the good one as well, and says of all why.
    func testModelsWhosePicturesAreTiles() throws {
        XCTAssertGreaterThan(Self.all.tileManifests.count, 10)
        for facts in Self.all.tileManifests {
            let said = refusal(try Manifest.parse(Data(contentsOf: Goldens.url(facts.file ?? ""))))
            XCTAssertTrue(said.contains("pictures are tiles in the text (pillow-tiles)"), "\(facts.name): \(said)")
        }
    }

    func testBundlesAndFolders() throws {
        let bundles = Self.all.bundles.filter { $0.runtime == false }  // the others are refused by Core ML
        for cases in [bundles, Self.all.folders] {
            try Self.tryAll(cases) { folder, _ in _ = try ModelBundle(verifying: folder).loadText() }
        }
    }

    func testTokenizers() throws {
        let manifest = try Manifest.read(Goldens.bundle)
        try Self.tryAll(Self.all.tokenizers) { file, facts in
            let tokenizer = try Tokenizer(data: Data(contentsOf: file), rows: manifest.model.vocabSize)
            _ = try TextProcessor(tokenizer: tokenizer, template: manifest.chatTemplate)
            let ids = tokenizer.encode(Self.all.text)
            if facts.expect == "same" { XCTAssertEqual(ids, Self.all.ids, facts.name) }
        }
    }

    func testImageKVs() async throws {
        try await Self.tryImageKVs()
    }

    @Inference
    private static func tryImageKVs() throws {
        let session = try SessionTests.open()
        try Self.tryAll(Self.all.imageKvs) { file, _ in _ = try session.checked(ImageKV.load(from: file)) }
    }

    func testWhatFilesAreCalledDoesNotBreakALine() {
        let error = HimixError("a\nb\u{1b}[31m\u{202e}c\u{2028}d")
        XCTAssertEqual(error.message, "a\u{fffd}b\u{fffd}[31m\u{fffd}c\u{fffd}d")
        XCTAssertLessThan(HimixError(String(repeating: "x", count: 100_000)).message.count, 700)
    }

    func testTheLeastTemperatureTakesTheLikeliestToken() throws {
        for temperature in [1e-310, Double.leastNonzeroMagnitude] {
            var sampler = try Sampler(temperature: temperature)
            XCTAssertEqual(sampler.pick([1, 3, 2, -.infinity]), 1)
        }
        for temperature in [Double.nan, .infinity, -1e-310] {
            XCTAssertTrue(refusal(try Sampler(temperature: temperature)).hasPrefix("temperature is"))
        }
    }

    func testThirtyThousandLettersAreOneWord() throws {
        let tokenizer = try Tokenizer(contentsOf: Goldens.bundle.appendingPathComponent("tokenizer.json"))
        let word = String(repeating: "ab", count: 15_000)
        XCTAssertEqual(tokenizer.decode(tokenizer.encode(word)), word)
    }

    func testPicturesOfOddSidesAreRefused() {
        for (width, height) in [(1, 20_000_000), (20_000_000, 1), (30_000, 30_000), (0, 5), (-1, -1), (.max, .max)] {
            XCTAssertFalse(refusal(try RGBImage.checkSize(width: width, height: height)).isEmpty)
        }
    }

    func testAChatThatIsAskedTwiceBeforeItHasAnsweredEndsTheOlderAnswer() async throws {
        try await Self.askTwice()
    }

    @Inference
    private static func askTwice() throws {
        let session = try SessionTests.open()
        let question = Goldens.answers.questions[0]
        func fresh() -> Chat { session.chat(images: [SessionTests.pixels(question.image)]) }
        let alone = fresh()
        let first = try alone.send(question.prompt).collect().tokens
        let second = try alone.send("what shape?").collect().tokens
        let left = "this answer was left"

        let unread = fresh()
        let older = try unread.send(question.prompt)
        XCTAssertEqual(try unread.send(question.prompt).collect().tokens, first)
        XCTAssertTrue(refusal(try older.collect()).hasPrefix(left))
        XCTAssertEqual(try unread.send("what shape?").collect().tokens, second)

        let begun = fresh()
        let half = try begun.send("Describe the image.")
        _ = try half.next()
        XCTAssertEqual(try fresh().send(question.prompt).collect().tokens, first, "another chat in between")
        _ = try begun.send("what shape?").collect()
        XCTAssertTrue(refusal(try half.next() as Any).hasPrefix(left))
        let million = String(repeating: "a", count: 1 << 20)
        XCTAssertTrue(refusal(try begun.send(million)).hasPrefix("the prompt does not fit"))
    }

    /// Every case of a kind; those that end otherwise than they should are named together.
    private static func tryAll(_ cases: [Case], _ trial: (URL, Case) throws -> Void) throws {
        var wrong = [String]()
        for facts in cases {
            do {
                try trial(Goldens.url(facts.file ?? facts.folder ?? ""), facts)
                if facts.expect == "refused" { wrong.append("\(facts.name): was not refused") }
            } catch let error as HimixError {
                let says = facts.words.allSatisfy { error.message.contains($0) }
                let clear = says && error.message == HimixError(error.message).message
                if !clear || facts.expect == "same" { wrong.append("\(facts.name): \(error.message)") }
            }
        }
        XCTAssertGreaterThan(cases.count, 10)
        XCTAssertEqual(wrong, [])
    }
}
