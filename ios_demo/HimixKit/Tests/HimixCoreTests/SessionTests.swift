import Foundation
import XCTest

@testable import HimixCore

/// The whole path over the real bundle: resize, template, tokenizer, cache, sampling and text, against Python's session.
final class SessionTests: XCTestCase {
    func testQuestionsTokenForToken() async throws {
        let questions = Goldens.answers.questions
        XCTAssertEqual(questions.count, 100)
        try await Self.ask(questions)
    }

    func testAnswersOfManyTokens() async throws {
        XCTAssertGreaterThan(Goldens.answers.descriptions.map(\.tokenIds.count).min() ?? 0, 2)
        try await Self.ask(Goldens.answers.descriptions)
    }

    @Inference
    private static func ask(_ questions: [Goldens.Question]) throws {
        let session = try open()
        var kept: [String: ImageKV] = [:]
        for golden in questions {
            let image: ImageInput
            if let kv = kept[golden.image] {
                image = .encoded(kv)
            } else {
                let resized = try Goldens.image(golden.image).resized(to: 64, .bilinear)
                XCTAssertEqual(resized.digest, golden.pixelsSha256, golden.image)
                let (kv, stats) = try session.encode([pixels(golden.image)])
                XCTAssertGreaterThan(stats.visionEncoder, 0)
                kept[golden.image] = kv
                image = .encoded(kv)
            }
            let options = AnswerOptions(maxNewTokens: Goldens.answers.limit)
            let answer = try session.generate(golden.prompt, images: [image], options: options)
            let (tokens, text) = try answer.collect()
            XCTAssertEqual(tokens, golden.tokenIds, "\(golden.image): \(golden.prompt)")
            XCTAssertEqual(text, golden.text)
            XCTAssertEqual(answer.stats.promptTokens, golden.promptIds.count)
            XCTAssertEqual(answer.stats.finishReason?.rawValue, golden.finishReason)
            XCTAssertEqual(answer.stats.newTokens, golden.tokenIds.count)
            XCTAssertEqual(answer.stats.preprocess, 0, "the image was kept")
        }
    }

    func testConversationsThatTakeTurnsOnOneCache() async throws {
        try await Self.converse()
    }

    @Inference
    private static func converse() throws {
        PipePrograms.shared.forgetCalls()
        let session = try open()
        let golden = Goldens.answers.conversations
        let chats = golden.chats.mapValues { session.chat(images: $0.images.map(pixels), system: $0.system) }
        for turn in golden.turns {
            let answer = try chats[turn.chat]!.send(turn.prompt, options: AnswerOptions(maxNewTokens: turn.limit))
            XCTAssertEqual(try answer.collect().tokens, turn.tokenIds, turn.prompt)
        }
        XCTAssertEqual(chats["both"]?.imageKV?.tokens, 128)
        XCTAssertNil(chats["none"]?.imageKV)
        XCTAssertGreaterThan(PipePrograms.shared.calls[.prefill] ?? 0, 8, "a prompt was fed in several pieces")
        XCTAssertGreaterThan(PipePrograms.shared.calls[.decode] ?? 0, 30, "and one by one where no piece fits")
    }

    func testStreamsAsynchronouslyAndEndsAtAStopText() async throws {
        let golden = Goldens.answers.descriptions[0]
        let (whole, stats) = try await Self.stream(golden, stop: [])
        XCTAssertEqual(whole.joined(), golden.text)
        XCTAssertGreaterThan(stats.ttft, stats.prefill)
        XCTAssertEqual(stats.interToken.count, stats.newTokens, "the last one brought the stop token")
        let word = golden.text.split(separator: " ")[2]
        let (cut, _) = try await Self.stream(golden, stop: [String(word)])
        XCTAssertEqual(cut.joined(), String(golden.text[..<golden.text.range(of: word)!.lowerBound]))
    }

    @Inference
    private static func stream(_ golden: Goldens.Question, stop: [String]) async throws -> ([String], Stats) {
        let session = try open()
        let answer = try session.generate(
            golden.prompt, images: [pixels(golden.image)], options: AnswerOptions(stop: stop))
        var pieces = [String]()
        for try await piece in answer { pieces.append(piece.text) }
        return (pieces, answer.stats)
    }

    func testAFailedStepLosesNothing() async throws {
        try await Self.failAndGoOn()
    }

    @Inference
    private static func failAndGoOn() throws {
        let session = try open()
        let golden = Goldens.answers.questions[0]
        let chat = session.chat(images: [pixels(golden.image)])
        PipePrograms.shared.fails = true
        XCTAssertEqual(refusal(try chat.send(golden.prompt).collect()), "the engine was told to fail")
        PipePrograms.shared.fails = false
        XCTAssertEqual(try chat.send(golden.prompt).collect().tokens, golden.tokenIds)
    }

    func testTheSelfTest() async throws {
        try await Self.selfTest()
    }

    @Inference
    private static func selfTest() throws {
        let bundle = try ModelBundle(verifying: Goldens.bundle)
        let golden = Goldens.answers.selfTest
        let passed = try open().selfTest(bundle) { _ in try Goldens.image(golden.image) }
        XCTAssertTrue(passed.passed, passed.answer)
        XCTAssertTrue(passed.pixelsEqual)
        let failed = try open().selfTest(bundle) { _ in try Goldens.image(golden.wrongImage) }
        XCTAssertFalse(failed.passed)
        XCTAssertFalse(failed.pixelsEqual)
        XCTAssertEqual(failed.expected, passed.answer)
    }

    func testWhatDoesNotFitIsRefused() async throws {
        try await Self.refuse()
    }

    @Inference
    private static func refuse() throws {
        let session = try open()
        let kv = try ImageKV.load(from: Goldens.url("hostile/good.image_kv"))
        let other = ImageKV(key: kv.key, value: kv.value, modelId: "other", nextPosition: 0)
        let nothing = Tensor(shape: [4, 2, 0, 32], values: [])
        let misshapen = ImageKV(key: nothing, value: nothing, modelId: kv.modelId, nextPosition: 0)
        for image in [other, misshapen] {
            XCTAssertTrue(
                refusal(try session.generate("hi", images: [.encoded(image)])).contains("encode the image again"))
        }
        XCTAssertEqual(refusal(try session.generate("  ")), "the prompt is empty; ask something about the image")
        let long = String(repeating: "what color is it? ", count: 300)
        XCTAssertTrue(
            refusal(try session.generate(long, images: [.encoded(kv)])).hasPrefix(
                "the prompt does not fit: 64 cache slots are used"))
        let none = AnswerOptions(maxNewTokens: 0)
        XCTAssertTrue(refusal(try session.generate("hi", options: none)).hasPrefix("max_new_tokens is 0"))
        XCTAssertEqual(
            refusal(try session.encode([.pixels({ throw HimixError("photo.jpg: damaged image") })])),
            "photo.jpg: damaged image")
    }

    @Inference
    static func open() throws -> Session {
        let bundle = try ModelBundle(verifying: Goldens.bundle)
        let engine = CoreMLEngine(PipePrograms.shared, manifest: bundle.manifest)
        return Session(engine: engine, text: try bundle.loadText(), manifest: bundle.manifest)
    }

    static func pixels(_ name: String) -> ImageInput {
        .pixels({ try Goldens.image(name) })
    }
}
