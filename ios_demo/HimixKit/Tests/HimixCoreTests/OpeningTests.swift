import Foundation
import XCTest

@testable import HimixCore

/// What happens to a bundle that ends the app, and to compute units that give other answers.
final class OpeningTests: XCTestCase {
    private let folder = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)
    private let picked = URL(fileURLWithPath: "/picked")
    private let shipped = URL(fileURLWithPath: "/shipped")

    override func tearDown() {
        try? FileManager.default.removeItem(at: folder)
    }

    func testABundleThatEndedTheAppIsNotOpenedAgain() throws {
        let marker = OpeningMarker(folder.appendingPathComponent("not yet/opening.json"))
        func choice() throws -> StartChoice { try .make(picked: picked, shipped: shipped, marker: marker) }
        XCTAssertEqual(try choice(), .open(picked, isShipped: false, note: nil))
        try marker.begin(.init(shipped: false, bundle: "b", units: .cpuAndNeuralEngine))
        // the app ends here, and starts again
        XCTAssertEqual(marker.interrupted?.units, .cpuAndNeuralEngine)
        for start in 1...3 {
            guard case .open(let folder, true, let note?) = try choice() else { return XCTFail("start \(start)") }
            XCTAssertEqual(folder, shipped)
            XCTAssertTrue(note.contains("picked bundle"), note)
            try marker.begin(.init(shipped: true, bundle: "s"))
            marker.end()  // the shipped one opens
        }
        marker.takeUpPicked()
        XCTAssertEqual(try choice(), .open(picked, isShipped: false, note: nil))
    }

    func testAShippedBundleThatEndedTheAppWaits() throws {
        let marker = OpeningMarker(folder.appendingPathComponent("opening.json"))
        XCTAssertEqual(try StartChoice.make(picked: nil, shipped: nil, marker: marker), .none)
        try marker.begin(.init(shipped: true, bundle: "b"))
        guard case .wait = try StartChoice.make(picked: nil, shipped: shipped, marker: marker) else {
            return XCTFail("opened again")
        }
        let other = try StartChoice.make(picked: picked, shipped: shipped, marker: marker)
        XCTAssertEqual(other, .open(picked, isShipped: false, note: nil))
        try marker.begin(.init(shipped: false, bundle: "b"))
        guard case .wait = try StartChoice.make(picked: picked, shipped: nil, marker: marker) else {
            return XCTFail("opened again")
        }
        try marker.begin(.init(shipped: true, bundle: "b"))  // now the shipped one, too
        guard case .wait = try StartChoice.make(picked: picked, shipped: shipped, marker: marker) else {
            return XCTFail("opened again")
        }
    }

    func testAMarkerThatMakesNoSenseCountsAsThePickedBundles() throws {
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        let file = folder.appendingPathComponent("opening.json")
        try Data("{".utf8).write(to: file)
        XCTAssertEqual(OpeningMarker(file).interrupted?.shipped, false)
        XCTAssertTrue(
            refusal(
                try OpeningMarker(file.appendingPathComponent("below a file")).begin(.init(shipped: true, bundle: ""))
            )
            .contains("cannot be written"))
    }

    func testUnitsAreTriedInOrderAndRemembered() async throws {
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        let memory = UnitsMemory(folder.appendingPathComponent("units.json"), system: "18.0")
        XCTAssertEqual(memory.order(for: "b"), ComputeUnits.allCases)
        let first = try await Self.attempt(memory, answers: [.all: "wrong", .cpuAndGPU: "right", .cpuOnly: "right"])
        XCTAssertEqual(first.tried, [.all, .cpuAndNeuralEngine, .cpuAndGPU])
        XCTAssertEqual(first.units, .cpuAndGPU)
        XCTAssertEqual(
            first.notes, ["all: the self-test gives another answer there", "cpu+npu: Core ML does not take it"])
        let second = try await Self.attempt(memory, answers: [.all: "right", .cpuAndGPU: "right"])
        XCTAssertEqual(second.tried, [.cpuAndGPU])
        // another bundle, and another version of the system, begin anew
        XCTAssertEqual(memory.order(for: "c"), ComputeUnits.allCases)
        XCTAssertEqual(
            UnitsMemory(folder.appendingPathComponent("units.json"), system: "18.1").order(for: "b"),
            ComputeUnits.allCases)
    }

    func testUnitsThatEndedTheAppAreLeftOutNextTime() {
        try? FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        let memory = UnitsMemory(folder.appendingPathComponent("units.json"), system: "18.0")
        memory.failed(.all, for: "b")
        XCTAssertEqual(memory.order(for: "b"), [.cpuAndNeuralEngine, .cpuAndGPU, .cpuOnly])
        memory.passed(.cpuOnly, for: "b")
        memory.failed(.cpuOnly, for: "b")
        XCTAssertEqual(memory.order(for: "b"), [.cpuAndNeuralEngine, .cpuAndGPU])
        for units in ComputeUnits.allCases { memory.failed(units, for: "b") }
        XCTAssertEqual(memory.order(for: "b"), ComputeUnits.allCases)
    }

    func testAnAnswerThatIsWrongEverywhereIsRefused() async throws {
        let memory = UnitsMemory(folder.appendingPathComponent("units.json"), system: "18.0")
        let wrong = Dictionary(uniqueKeysWithValues: ComputeUnits.allCases.map { ($0, "wrong") })
        do {
            _ = try await Self.attempt(memory, answers: wrong)
            XCTFail("taken")
        } catch let error as HimixError {
            XCTAssertTrue(error.localizedDescription.contains("another answer on all"), error.localizedDescription)
        }
    }

    /// Units without an answer are those that Core ML refuses.
    @Inference
    private static func attempt(
        _ memory: UnitsMemory, answers: [ComputeUnits: String]
    ) async throws -> (units: ComputeUnits, notes: [String], tried: [ComputeUnits]) {
        var tried = [ComputeUnits]()
        let (units, answer, notes) = try await firstThatPasses(
            memory.order(for: "b"), memory: memory, bundle: "b", begin: { tried.append($0) },
            open: { units in
                guard let answer = answers[units] else { throw HimixError("Core ML does not take it") }
                return answer
            },
            passes: { $0 == "right" })
        XCTAssertEqual(answer, "right")
        return (units, notes, tried)
    }
}
