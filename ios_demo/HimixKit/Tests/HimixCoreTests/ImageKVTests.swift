import Foundation
import XCTest

@testable import HimixCore

final class ImageKVTests: XCTestCase {
    func testReadsWhatPythonWrote() throws {
        let golden = Goldens.answers.imageKv
        let image = try ImageKV.load(from: Goldens.url(golden.file))
        XCTAssertEqual(image.key.shape, golden.shape)
        XCTAssertEqual(image.modelId, golden.modelId)
        XCTAssertEqual(image.nextPosition, golden.nextPosition)
        XCTAssertEqual(sha256(image.key.values.withUnsafeBytes { Data($0) }), golden.keySha256)
        XCTAssertEqual(sha256(image.value.values.withUnsafeBytes { Data($0) }), golden.valueSha256)
    }

    func testPythonReadsWhatIsWrittenHere() async throws {
        let image = try ImageKV.load(from: Goldens.url("hostile/good.image_kv"))
        let other = ImageKV(key: image.value, value: image.key, modelId: "a \"name\"/ü", nextPosition: 64)
        try other.save(to: Goldens.exchange("swift.kv"))
        let (facts, tensors) = try await Self.ask("read_image_kv", "swift.kv")
        XCTAssertEqual(facts["model_id"], "a \"name\"/ü")
        XCTAssertEqual(facts["next_position"], "64")
        XCTAssertEqual(tensors, [image.value, image.key])
        XCTAssertEqual(try ImageKV.load(from: Goldens.exchange("swift.kv")), other)
    }

    func testJoinsAlongTheSlots() throws {
        let one = kv([1, 2, 3, 4, 5, 6, 7, 8], slots: 2)
        let two = kv([11, 12, 13, 14], slots: 1)
        let joined = try ImageKV.joined([one, two])
        XCTAssertEqual(joined.tokens, 3)
        XCTAssertEqual(joined.key.values, [1, 2, 3, 4, 11, 12, 5, 6, 7, 8, 13, 14])
        let vanilla = ImageKV(key: one.key, value: one.value, modelId: "m", nextPosition: 2)
        XCTAssertTrue(refusal(try ImageKV.joined([vanilla, vanilla])).hasPrefix("a vanilla model takes one image"))
        let stranger = ImageKV(key: one.key, value: one.value, modelId: "x", nextPosition: 0)
        XCTAssertTrue(refusal(try ImageKV.joined([one, stranger])).contains("made by different models"))
    }

    func testDamagedFilesAreRefused() throws {
        let good = try Data(contentsOf: Goldens.url("hostile/good.image_kv"))
        let url = Goldens.exchange("damaged.kv")
        func message(_ data: Data) throws -> String {
            try data.write(to: url)
            return refusal(try ImageKV.load(from: url))
        }
        for length in [0, 7, 8, 100, good.count - 1] {
            XCTAssertTrue(try message(good.prefix(length)).hasPrefix("damaged.kv: damaged or not a saved ImageKV"))
        }
        let headers = [
            "{\"key\":{\"dtype\":\"F32\",\"shape\":[1,1,1,9223372036854775807],\"data_offsets\":[0,4]}}",
            "{\"key\":{\"dtype\":\"F32\",\"shape\":[16777216,16777216,16777216],\"data_offsets\":[0,4]}}",
            "{\"key\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}",
            "{\"key\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}",
            "{\"key\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,400]}}",
            "{\"key\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,4]}}",
            "{\"key\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}",
            "[]", "{", "{\"__metadata__\":3}", String(repeating: " ", count: 9),
        ]
        for header in headers {
            XCTAssertTrue(try message(file(header)).hasPrefix("damaged.kv: damaged or not"), header)
        }
        let scalar = "{\"key\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}"
        XCTAssertEqual(try message(file(scalar)), "damaged.kv: not a saved ImageKV")
        XCTAssertEqual(
            refusal(try ImageKV.load(from: Goldens.exchange("nothing.kv"))), "nothing.kv: no such file")
    }

    private func file(_ header: String) -> Data {
        withUnsafeBytes(of: UInt64(header.utf8.count).littleEndian) { Data($0) } + Data(header.utf8) + Data(count: 4)
    }

    private func kv(_ values: [Float], slots: Int) -> ImageKV {
        let tensor = Tensor(shape: [1, 2, slots, 2], values: values)
        return ImageKV(key: tensor, value: tensor, modelId: "m", nextPosition: 0)
    }

    @Inference
    static func ask(_ call: String, _ file: String) throws -> (facts: [String: String], tensors: [Tensor]) {
        let reply = try PipePrograms.shared.call(call, ["file": file])
        return (reply.facts.mapValues { "\($0)" }, reply.tensors)
    }
}
