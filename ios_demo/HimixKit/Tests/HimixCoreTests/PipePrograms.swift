import Foundation
import XCTest

@testable import HimixCore

/// The bundle's Core ML programs in Python's reference interpreter, behind two named pipes.
@Inference
final class PipePrograms: CoreMLPrograms {
    struct Reply {
        let facts: [String: Any]
        let tensors: [Tensor]
    }

    static let shared = PipePrograms()

    nonisolated let provider = "interpreter"
    var fails = false
    private(set) var calls: [DecoderCall.Function: Int] = [:]
    private let requests: FileHandle
    private let replies: FileHandle

    private init() {
        do {
            requests = try FileHandle(forWritingTo: Goldens.engine.appendingPathComponent("requests"))
            replies = try FileHandle(forReadingFrom: Goldens.engine.appendingPathComponent("replies"))
        } catch {
            fatalError("no engine behind the pipes: \(error)")
        }
    }

    func encode(_ pixels: RGBImage) throws -> Tensor {
        try call("encode", ["side": pixels.width], Data(pixels.pixels)).tensors[0]
    }

    func inject(_ features: Tensor) throws -> (key: Tensor, value: Tensor) {
        let tensors = try call("inject", ["shape": features.shape], data(features.values)).tensors
        return (tensors[0], tensors[1])
    }

    func write(_ image: CacheImage, toState name: String) throws {
        let shape = image.cacheShape
        let strides = [shape[1] * shape[2] * shape[3], shape[2] * shape[3], shape[3], 1]
        var cache = [Float](repeating: 0, count: shape.reduce(1, *))
        cache.withUnsafeMutableBufferPointer { image.write(into: $0, strides: strides) }
        _ = try call("write", ["shape": shape, "state": name], data(cache))
    }

    func decode(_ call: DecoderCall) throws -> [Float] {
        calls[call.function, default: 0] += 1
        if fails { throw HimixError("the engine was told to fail") }
        let facts: [String: Any] = [
            "function": call.function.rawValue, "start": Int(call.start), "position": Int(call.position),
            "last": Int(call.last),
        ]
        return try self.call("decode", facts, data(call.inputIds)).tensors[0].values
    }

    func forgetCalls() { calls = [:] }

    /// Ask the process something.
    func call(_ name: String, _ facts: [String: Any], _ body: Data = Data()) throws -> Reply {
        let head: [String: Any] = facts.merging(["call": name, "bytes": body.count]) { $1 }
        let line = try JSONSerialization.data(withJSONObject: head)
        try requests.write(contentsOf: line + Data("\n".utf8) + body)
        let answer = try readLine()
        let found = try JSONSerialization.jsonObject(with: answer) as! [String: Any]
        let rest = try read(found["bytes"] as! Int)
        if let error = found["error"] as? String { throw HimixError(error) }
        return Reply(facts: found, tensors: tensors(found["shapes"] as! [[Int]], rest))
    }

    private func data<Value>(_ values: [Value]) -> Data {
        values.withUnsafeBytes { Data($0) }
    }

    private func tensors(_ shapes: [[Int]], _ data: Data) -> [Tensor] {
        let values = [Float](unsafeUninitializedCapacity: data.count / 4) { target, written in
            written = data.copyBytes(to: target) / 4
        }
        var at = 0
        return shapes.map { shape in
            let count = shape.reduce(1, *)
            defer { at += count }
            return Tensor(shape: shape, values: Array(values[at..<(at + count)]))
        }
    }

    private func readLine() throws -> Data {
        var line = Data()
        while true {
            let byte = try read(1)
            if byte.first == UInt8(ascii: "\n") { return line }
            line += byte
        }
    }

    private func read(_ count: Int) throws -> Data {
        var data = Data()
        while data.count < count {
            guard let piece = try replies.read(upToCount: count - data.count), !piece.isEmpty else {
                throw HimixError("the engine's process ended")
            }
            data += piece
        }
        return data
    }
}
