import Foundation

/// The safetensors format: eight bytes of header length, a JSON header, the tensors' bytes.
struct Safetensors {
    /// A tensor's type, shape and where its bytes lie behind the header.
    struct Entry: Codable {
        let dtype: String
        let shape: [Int]
        let dataOffsets: [Int]

        private enum CodingKeys: String, CodingKey {
            case dtype, shape
            case dataOffsets = "data_offsets"
        }
    }

    static let maxHeaderBytes = 1 << 20
    private static let metadataKey = "__metadata__"

    var metadata: [String: String] = [:]
    var tensors: [String: Tensor] = [:]

    init(metadata: [String: String], tensors: [String: Tensor]) {
        (self.metadata, self.tensors) = (metadata, tensors)
    }

    /// Read float32 tensors. Throws `HimixError` that says what is wrong; nothing in the file is trusted.
    init(_ data: Data) throws {
        let data = Data(data)  // from index 0
        guard data.count >= 8 else { throw HimixError("too short") }
        let length = data.prefix(8).reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
        guard length <= UInt64(Self.maxHeaderBytes), Int(length) <= data.count - 8 else {
            throw HimixError("its header does not fit")
        }
        let body = data.dropFirst(8 + Int(length))
        try StrictJSON.check(data[8..<(8 + Int(length))])
        guard let header = try? JSONDecoder().decode([String: Part].self, from: data[8..<(8 + Int(length))]) else {
            throw HimixError("its header is not valid")
        }
        var places: [[Int]] = []
        for (name, part) in header {
            switch part {
            case .metadata(let metadata): self.metadata = metadata
            case .tensor(let entry):
                tensors[name] = try Self.tensor(entry, body)
                places.append(entry.dataOffsets)
            }
        }
        var end = 0
        for place in places.sorted(by: { ($0[0], $0[1]) < ($1[0], $1[1]) }) {
            guard place[0] == end else { throw HimixError("its tensors do not lie one behind the other") }
            end = place[1]
        }
        guard end == body.count else { throw HimixError("something lies behind its tensors") }
    }

    /// The file's bytes, tensors by name.
    func serialized() throws -> Data {
        var header: [String: Part] = metadata.isEmpty ? [:] : [Self.metadataKey: .metadata(metadata)]
        var body = Data()
        for (name, tensor) in tensors.sorted(by: { $0.key < $1.key }) {
            let start = body.count
            for value in tensor.values {
                withUnsafeBytes(of: value.bitPattern.littleEndian) { body.append(contentsOf: $0) }
            }
            header[name] = .tensor(Entry(dtype: "F32", shape: tensor.shape, dataOffsets: [start, body.count]))
        }
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        var json = try encoder.encode(header)
        json.append(Data(repeating: UInt8(ascii: " "), count: (8 - json.count % 8) % 8))
        let length = withUnsafeBytes(of: UInt64(json.count).littleEndian) { Data($0) }
        return length + json + body
    }

    private static func tensor(_ entry: Entry, _ body: Data) throws -> Tensor {
        guard entry.dtype == "F32" else { throw HimixError("its numbers are \(entry.dtype), not F32") }
        let (shape, offsets) = (entry.shape, entry.dataOffsets)
        let inside = offsets.count == 2 && 0 <= offsets[0] && offsets[0] <= offsets[1] && offsets[1] <= body.count
        guard inside, shape.allSatisfy({ (0...(1 << 24)).contains($0) }) else {
            throw HimixError("a tensor reaches beyond its end")
        }
        var count = 1
        for size in shape {
            let (product, overflow) = count.multipliedReportingOverflow(by: size)
            guard !overflow else { throw HimixError("a tensor's shape is not its size") }
            count = product
        }
        guard count <= body.count, count * 4 == offsets[1] - offsets[0] else {
            throw HimixError("a tensor's shape is not its size")
        }
        let bytes = body.dropFirst(offsets[0]).prefix(count * 4)
        let values = [Float](unsafeUninitializedCapacity: count) { target, written in
            _ = bytes.copyBytes(to: UnsafeMutableRawBufferPointer(target))
            written = count
        }
        return Tensor(shape: shape, values: values.map { Float(bitPattern: UInt32(littleEndian: $0.bitPattern)) })
    }

    private enum Part: Codable {
        case metadata([String: String])
        case tensor(Entry)

        init(from decoder: any Decoder) throws {
            if decoder.codingPath.last?.stringValue == Safetensors.metadataKey {
                self = .metadata(try [String: String](from: decoder))
            } else {
                self = .tensor(try Entry(from: decoder))
            }
        }

        func encode(to encoder: any Encoder) throws {
            switch self {
            case .metadata(let metadata): try metadata.encode(to: encoder)
            case .tensor(let entry): try entry.encode(to: encoder)
            }
        }
    }
}
