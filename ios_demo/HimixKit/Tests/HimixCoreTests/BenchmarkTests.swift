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
        XCTAssertEqual(facts["runs"] as? [Int], [1 + 3 + 3, 1 + 2 + 2], "first, iterations, without a pause")
        XCTAssertEqual(facts["sustained_s"] as? Double, 30)
        let later = try XCTUnwrap(facts["later"] as? [String: Any])
        XCTAssertEqual(later["schema_version"] as? Int, 2)
        XCTAssertEqual(later["unplugged"] as? Bool, false)
        let energy = try XCTUnwrap((later["energy"] as? [[String: Any]])?.first)
        XCTAssertEqual(energy["reason"] as? String, "not readable: iOS tells no power")
        let windows = try XCTUnwrap((later["sustained"] as? [String: Any])?["windows"] as? [[String: Any]])
        XCTAssertEqual(windows.map { $0["at_s"] as? Double }, [0, 12, 24])
        XCTAssertEqual(windows.map { $0["seconds"] as? Double }, [12, 12, 6])
        XCTAssertEqual(windows.map { $0["answers"] as? Int }, [2, 2, 1])
        XCTAssertEqual(windows.map { $0["tokens"] as? Int }, [6, 6, 3])
        for window in windows {
            XCTAssertGreaterThan(try XCTUnwrap(window["tokens_per_s"] as? Double), 0)
            XCTAssertGreaterThan(try XCTUnwrap(window["ttft_ms"] as? Double), 0)
            XCTAssertEqual((window["reading"] as? [String: Any])?["thermal_state"] as? String, "nominal")
        }
    }

    func testWithoutASustainedPartNoneIsInTheRecord() async throws {
        let record = try await Self.short(sustainedSeconds: 0) { { 0 } }
        let found = try await Self.readInPython(record, file: "record-short.json")
        let facts = try XCTUnwrap(JSONSerialization.jsonObject(with: found) as? [String: Any])
        let later = try XCTUnwrap(facts["later"] as? [String: Any])
        XCTAssertTrue(later["sustained"] is NSNull)
        XCTAssertEqual((later["energy"] as? [Any])?.count, 0)
        XCTAssertEqual(later["unplugged"] as? Bool, true)
        XCTAssertTrue(facts["sustained_s"] is NSNull)
    }

    func testTheSustainedPartCanBeStopped() async throws {
        let run = Task {
            try await BenchmarkTests.short(sustainedSeconds: 3) {
                var seconds = 0.0
                return {
                    withUnsafeCurrentTask { $0?.cancel() }
                    seconds += 1
                    return seconds
                }
            }
        }
        do {
            _ = try await run.value
            XCTFail("ran to its end")
        } catch {
            XCTAssertTrue(error is CancellationError, "\(error)")
        }
    }

    /// One question once, on a device on its battery, and the sustained part by a clock.
    @Inference
    private static func short(
        sustainedSeconds: Double, makeClock: @escaping @Sendable () -> () -> Double
    ) async throws -> Record {
        let golden = Goldens.answers.questions[1]
        let item = BenchmarkItem(name: golden.image, prompt: golden.prompt) { try Goldens.image(golden.image) }
        let benchmark = Benchmark(
            try SessionTests.open(), bundle: try ModelBundle(verifying: Goldens.bundle), items: [item], warmUp: 0,
            timed: 1, newTokens: 2, sustainedSeconds: sustainedSeconds, makeClock: makeClock)
        let host = BenchmarkHost(
            device: Record.Device(name: "test", kind: "phone"), command: "swift test", harness: "himix iOS demo tests",
            versions: [:], memory: { (nil, nil) }, reading: { Record.Reading(charging: false) }, keepAwake: { _ in })
        return try await benchmark.run(
            host, load: LoadFacts(milliseconds: 5, baselineBytes: nil), selfTestPassed: true)
    }

    func testWindowsEndWithAnAnswer() {
        func stats(ttft: Double, interToken: [Double], newTokens: Int) -> Stats {
            var stats = Stats()
            (stats.ttft, stats.interToken, stats.newTokens) = (ttft, interToken, newTokens)
            return stats
        }
        var sustained = Sustained(seconds: 15)
        sustained.add(
            stats(ttft: 100, interToken: [10, 30], newTokens: 3), now: 9.9, reading: Record.Reading(batteryPercent: 51))
        XCTAssertTrue(sustained.windows.isEmpty)
        sustained.add(
            stats(ttft: 300, interToken: [20], newTokens: 2), now: 10, reading: Record.Reading(batteryPercent: 50))
        XCTAssertFalse(sustained.over)
        sustained.add(stats(ttft: 70, interToken: [], newTokens: 1), now: 16, reading: Record.Reading())
        XCTAssertTrue(sustained.over)
        XCTAssertEqual(sustained.answers, 3)
        XCTAssertEqual(sustained.windows.map(\.atS), [0, 10])
        XCTAssertEqual(sustained.windows.map(\.seconds), [10, 6])
        XCTAssertEqual(sustained.windows.map(\.answers), [2, 1])
        XCTAssertEqual(sustained.windows.map(\.tokens), [5, 1])
        XCTAssertEqual(sustained.windows.map(\.tokensPerS), [50, nil], "3 tokens in 60 ms; none behind the first")
        XCTAssertEqual(sustained.windows.map(\.ttftMs), [200, 70])
        XCTAssertEqual(sustained.windows[0].reading.batteryPercent, 50)
    }

    func testUnpluggedIsWhatEveryLookSays() {
        func told(_ charging: Bool?...) -> Bool? { unplugged(charging.map { Record.Reading(charging: $0) }) }
        XCTAssertEqual(told(false, false), true)
        XCTAssertEqual(told(false, true, nil), false)
        XCTAssertNil(told(false, nil))
        XCTAssertNil(told())
    }

    @Inference
    private static func measure() async throws -> (facts: Data, record: Record) {
        let bundle = try ModelBundle(verifying: Goldens.bundle)
        let session = try SessionTests.open()
        let items = Goldens.answers.questions[1...2].map { golden in
            BenchmarkItem(name: golden.image, prompt: golden.prompt) { try Goldens.image(golden.image) }
        }
        let benchmark = Benchmark(
            session, bundle: bundle, items: items, warmUp: 1, timed: 4, newTokens: 3,
            sustainedSeconds: 30
        ) {
            var seconds = 0.0
            return {
                seconds += 6
                return seconds
            }
        }
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
        return (try readInPython(record, file: "record.json"), record)
    }

    /// What `himix_edge.bench.record` finds in the record; throws if it refuses it.
    @Inference
    private static func readInPython(_ record: Record, file: String) throws -> Data {
        try record.json().write(to: Goldens.exchange(file))
        let facts = try PipePrograms.shared.call("read_records", ["file": file]).facts
        return try JSONSerialization.data(withJSONObject: facts)
    }

    func testVerdicts() {
        let answer = Record.Answer(
            prompt: "p", images: [], text: "", tokenIdsSha256: tokenDigest([5, 17]), runs: 4, equalRuns: 4)
        XCTAssertEqual(answer.tokenIdsSha256, sha256(Data("5,17".utf8)))
        var steady = Record.Samples()
        steady.ttft = [10, 20, 10.5, 20.5, 10.2, 20.1]
        func judge(
            _ samples: Record.Samples, selfTest: Bool? = true, equal: Int = 4, thermal: String = "nominal",
            overhead: Double = 0, lowPower: Bool? = false, sustained: [Record.Reading] = []
        ) -> (Record.Verdict, [String]) {
            var answer = answer
            answer.equalRuns = equal
            return VerdictRules.judge(
                selfTestPassed: selfTest, answers: [answer],
                readings: [Record.Reading(thermalState: thermal, lowPower: lowPower)],
                sustained: sustained, samples: samples, items: 2, overhead: overhead)
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
        let hot = Record.Reading(thermalState: "serious")
        XCTAssertEqual(judge(steady, sustained: [hot]).0, .valid, "that part is meant to get warm")
        XCTAssertEqual(judge(steady, sustained: [Record.Reading(lowPower: true)]).0, .semiValid)
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
