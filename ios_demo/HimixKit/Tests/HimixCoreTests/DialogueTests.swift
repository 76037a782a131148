import Foundation
import XCTest

@testable import HimixCore

/// Pictures and the keys and values kept of them; questions that continue a conversation.
final class DialogueTests: XCTestCase {
    func testKeysAndValuesBelongToThePictureThatIsAskedAbout() async throws {
        try await Self.exchangePictures()
    }

    @Inference
    private static func exchangePictures() throws {
        let questions = Goldens.answers.questions
        let first = questions[0]
        let second = try XCTUnwrap(questions.first { $0.image != first.image && $0.tokenIds != first.tokenIds })
        let options = AnswerOptions(maxNewTokens: Goldens.answers.limit)
        let dialogue = Dialogue(try SessionTests.open())
        let (one, two) = (picture(first.image), picture(second.image))
        // the second picture is shown while the first one's answer is still read
        let left = try dialogue.ask(first.prompt, about: one, continuing: false, options: options)
        _ = try left.next()
        let answer = try dialogue.ask(second.prompt, about: two, continuing: false, options: options)
        XCTAssertEqual(try answer.collect().tokens, second.tokenIds)
        XCTAssertGreaterThan(answer.stats.visionEncoder, 0)
        _ = try? left.collect()  // the late one, to its end
        XCTAssertTrue(dialogue.isKept(two.id))
        XCTAssertFalse(dialogue.isKept(one.id))
        let again = try dialogue.ask(second.prompt, about: two, continuing: false, options: options)
        XCTAssertEqual(try again.collect().tokens, second.tokenIds)
        XCTAssertEqual(again.stats.visionEncoder, 0, "the second picture was kept")
        let back = try dialogue.ask(first.prompt, about: one, continuing: true, options: options)
        XCTAssertEqual(try back.collect().tokens, first.tokenIds, "another picture begins a new conversation")
        XCTAssertGreaterThan(back.stats.visionEncoder, 0)
    }

    func testAQuestionContinuesTheConversationWhenItIsToldTo() async throws {
        try await Self.converse()
    }

    @Inference
    private static func converse() throws {
        let golden = Goldens.answers.questions[0]
        let options = AnswerOptions(maxNewTokens: 4)
        let session = try SessionTests.open()
        let dialogue = Dialogue(session)
        let about = picture(golden.image)
        _ = try dialogue.ask(golden.prompt, about: about, continuing: true, options: options).collect()
        let further = try dialogue.ask("Describe the image.", about: about, continuing: true, options: options)
        let chat = session.chat(images: [.pixels(about.load)])
        _ = try chat.send(golden.prompt, options: options).collect()
        XCTAssertEqual(
            try further.collect().tokens, try chat.send("Describe the image.", options: options).collect().tokens)
        XCTAssertEqual(further.stats.visionEncoder, 0)
        let alone = try dialogue.ask(golden.prompt, about: nil, continuing: true, options: options)
        _ = try alone.collect()
        XCTAssertEqual(alone.stats.visionTokens, 0)
        XCTAssertFalse(dialogue.isKept(about.id))
    }

    nonisolated private static func picture(_ name: String) -> Picture {
        Picture { try Goldens.image(name) }
    }
}
