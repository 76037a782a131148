import XCTest

@testable import HimixCore

final class SamplingTests: XCTestCase {
    func testProbabilitiesAndGreedyChoice() throws {
        for golden in Goldens.sampling.probabilities {
            let sampler = try Sampler(temperature: golden.temperature, topP: golden.topP)
            for (found, expected) in zip(sampler.probabilities(golden.logits), golden.probabilities) {
                XCTAssertEqual(found, expected, accuracy: 1e-12)
            }
            var greedy = try Sampler()
            XCTAssertEqual(greedy.pick(golden.logits), golden.greedy)
        }
    }

    func testDrawsFollowTheProbabilitiesAndTheSeed() throws {
        let golden = Goldens.sampling.probabilities[1]
        func draw(seed: UInt64) throws -> [Int] {
            var sampler = try Sampler(temperature: golden.temperature, topP: golden.topP, seed: seed)
            return (0..<5000).map { _ in sampler.pick(golden.logits) }
        }
        let drawn = try draw(seed: 1)
        XCTAssertEqual(drawn, try draw(seed: 1))
        XCTAssertNotEqual(drawn, try draw(seed: 2))
        for (id, probability) in golden.probabilities.enumerated() {
            let share = Double(drawn.filter { $0 == id }.count) / 5000
            XCTAssertEqual(share, probability, accuracy: 0.03)
            if probability == 0 { XCTAssertEqual(share, 0) }
        }
    }

    func testBadSettingsAreRefused() {
        XCTAssertTrue(refusal(try Sampler(temperature: -1)).hasPrefix("temperature is -1.0"))
        XCTAssertTrue(refusal(try Sampler(temperature: .nan)).hasPrefix("temperature is nan"))
        XCTAssertTrue(refusal(try Sampler(topP: 0)).hasPrefix("top_p is 0.0"))
        XCTAssertTrue(refusal(try Sampler(topP: 1.1)).hasPrefix("top_p is 1.1"))
        XCTAssertTrue(refusal(try StopTexts(["a", ""])).hasPrefix("a stop text is empty"))
    }

    func testStopTextsShowWhatPythonShows() throws {
        for golden in Goldens.sampling.stops {
            var texts = try StopTexts(golden.stops)
            for (piece, expected) in zip(golden.pieces, golden.shown) {
                let (shown, stopped) = texts.feed(piece)
                XCTAssertTrue(shown.unicodeScalars.elementsEqual(expected.text.unicodeScalars), "\(golden)")
                XCTAssertEqual(stopped, expected.stopped, "\(golden)")
            }
            XCTAssertTrue(texts.rest().unicodeScalars.elementsEqual(golden.rest.unicodeScalars), "\(golden)")
        }
    }
}
