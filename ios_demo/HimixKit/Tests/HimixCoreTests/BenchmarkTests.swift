import Foundation
import XCTest

@testable import HimixCore

final class BenchmarkTests: XCTestCase {
    func testARecordThatPythonReads() async throws {
        let (found, record) = try await Self.measure()
        let facts = try XCTUnwrap(JSONSerialization.jsonObject(with: found) as? [String: Any])
        XCTAssertEqual(facts["same_bundle"] as? Bool, true)
        XCTAssertEqual(facts["same_bytes"] as? Bool, true)
        let counts = try XCTUnwrap(facts["samples"] as? [String: Int])
        for stage in ["preprocess", "vision_encoder", "vision_injector", "prefill", "ttft", "warm_ttft"] {
            XCTAssertEqual(counts[stage], 4, stage)
        }
        XCTAssertEqual(counts["inter_token"], 8)
        XCTAssertEqual((facts["digests"] as? [String])?.count, 2)
        XCTAssertEqual(facts["verdict"] as? String, record.verdict.rawValue)
        XCTAssertNotEqual(record.verdict, .invalid)
        XCTAssertEqual(record.medians.count, 8)
    }

    @Inference
    private static func measure() async throws -> (facts: Data, record: Record) {
        let bundle = try ModelBundle(verifying: Goldens.bundle)
        let session = try SessionTests.open()
        let items = Goldens.answers.questions[1...2].map { golden in
            BenchmarkItem(name: golden.image, prompt: golden.prompt) { try Goldens.image(golden.image) }
        }
        let benchmark = Benchmark(session, bundle: bundle, items: items, warmUp: 1, timed: 4, newTokens: 3)
        let host = BenchmarkHost(
            device: Record.Device(name: "test", kind: "computer", threads: 2), command: "swift test",
            harness: "himix iOS demo tests", versions: ["swift": "6"], memory: { (1, 2) },
            reading: { Record.Reading(batteryPercent: 50, charging: true, thermalState: "nominal", lowPower: true) },
            keepAwake: { await Awake.shared.note($0) })
        let load = LoadFacts(milliseconds: 5, baselineBytes: 1)
        let record = try await benchmark.run(host, load: load, selfTestPassed: true)
        let held = await Awake.shared.taken()
        XCTAssertEqual(held, [true, false])
        let broken = BenchmarkItem(name: "a", prompt: "b") { throw HimixError("no such photo") }
        do {
            _ = try await Benchmark(session, bundle: bundle, items: [broken])
                .run(host, load: load, selfTestPassed: true)
            XCTFail("measured")
        } catch {
            XCTAssertEqual(error.localizedDescription, "no such photo")
        }
        let released = await Awake.shared.taken()
        XCTAssertEqual(released, [true, false], "the screen may go dark again after a failure, too")
        try record.json().write(to: Goldens.exchange("record.json"))
        let facts = try PipePrograms.shared.call("read_records", ["file": "record.json"]).facts
        return (try JSONSerialization.data(withJSONObject: facts), record)
    }

    func testVerdicts() {
        let answer = Record.Answer(
            prompt: "p", images: [], text: "", tokenIdsSha256: tokenDigest([5, 17]), runs: 4, equalRuns: 4)
        XCTAssertEqual(answer.tokenIdsSha256, sha256(Data("5,17".utf8)))
        var steady = Record.Samples()
        steady.ttft = [10, 20, 10.5, 20.5, 10.2, 20.1]
        func judge(
            _ samples: Record.Samples, selfTest: Bool? = true, equal: Int = 4, thermal: String = "nominal",
            overhead: Double = 0, lowPower: Bool? = false
        ) -> (Record.Verdict, [String]) {
            var answer = answer
            answer.equalRuns = equal
            return VerdictRules.judge(
                selfTestPassed: selfTest, answers: [answer],
                readings: [Record.Reading(thermalState: thermal, lowPower: lowPower)],
                samples: samples, items: 2, overhead: overhead)
        }
        XCTAssertEqual(judge(steady).0, .valid)
        XCTAssertEqual(judge(steady, selfTest: nil).0, .valid)
        XCTAssertEqual(judge(steady, selfTest: false).0, .invalid)
        XCTAssertEqual(judge(steady, equal: 3).1, ["'p': 1 of 4 runs answered differently from the first"])
        XCTAssertEqual(judge(steady, thermal: "serious").0, .semiValid)
        XCTAssertEqual(judge(steady, overhead: 0.02).1, ["the harness itself took 2% of the time (limit 1%)"])
        XCTAssertEqual(
            judge(steady, lowPower: true).1, ["Low Power Mode was on, which slows the processor; switch it off"])
        XCTAssertEqual(judge(steady, lowPower: true).0, .semiValid)
        var unsteady = steady
        unsteady.ttft = [10, 20, 15, 30, 10, 20, 5, 40]
        XCTAssertEqual(judge(unsteady).0, .semiValid)
        XCTAssertEqual(VerdictRules.spread([10, 1, 12, 1, 8, 1], period: 2), 0.2, accuracy: 1e-12)
    }
}

/// What a benchmark asked of the screen.
private actor Awake {
    static let shared = Awake()
    private var calls = [Bool]()

    func note(_ awake: Bool) { calls.append(awake) }

    func taken() -> [Bool] {
        defer { calls = [] }
        return calls
    }
}
