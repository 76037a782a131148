import Foundation

/// An image's keys and values for every layer. Computed once, kept, saved, used under any prompt.
public struct ImageKV: Sendable, Equatable {
    static let format = "himix-image-kv-1"
    static let maxBytes = 256 << 20  // a phone does not hold more

    /// (I, G, N, h)
    public let key: Tensor
    /// (I, G, N, h)
    public let value: Tensor
    /// Names the tower and injection weights that made it.
    public let modelId: String
    /// Rotary position of the first text token behind it: 0 for HiMix, N for a vanilla model.
    public let nextPosition: Int

    /// N, the cache slots it fills.
    public var tokens: Int { key.shape[2] }

    /// Write it as a safetensors file, which the Python package reads as well. Replaces an older file in one step.
    public func save(to url: URL) throws {
        let metadata = ["model_id": modelId, "next_position": String(nextPosition), "format": Self.format]
        let file = Safetensors(metadata: metadata, tensors: ["key": key, "value": value])
        do {
            try file.serialized().write(to: url, options: .atomic)
        } catch {
            throw HimixError("\(url.lastPathComponent): cannot be written (\(error.localizedDescription))")
        }
    }

    /// Read what `save`, or the Python package, wrote.
    ///
    /// - Throws: `HimixError`: missing, damaged or something else.
    public static func load(from url: URL) throws -> ImageKV {
        let name = url.lastPathComponent
        guard let size = fileSize(url) else { throw HimixError("\(name): no such file") }
        guard size <= maxBytes else { throw HimixError("\(name): too large; this is not a saved ImageKV") }
        let file: Safetensors
        do {
            file = try Safetensors(Data(contentsOf: url))
        } catch {
            throw HimixError("\(name): damaged or not a saved ImageKV (\(error.localizedDescription))")
        }
        guard file.metadata["format"] == format, Set(file.tensors.keys) == ["key", "value"],
            let key = file.tensors["key"], let value = file.tensors["value"],
            key.shape.count == 4, key.shape == value.shape,
            key.shape.allSatisfy({ $0 > 0 }), let modelId = file.metadata["model_id"],
            let text = file.metadata["next_position"], text.utf8.allSatisfy("0123456789".utf8.contains),
            let position = Int(text), position <= 1 << 24
        else { throw HimixError("\(name): not a saved ImageKV") }
        guard (key.values + value.values).allSatisfy(\.isFinite) else {
            throw HimixError("\(name): damaged or not a saved ImageKV (not all of its values are numbers)")
        }
        return ImageKV(key: key, value: value, modelId: modelId, nextPosition: position)
    }

    /// Several images' keys and values, one behind the other.
    ///
    /// - Throws: `HimixError`: they come from different models, or a vanilla one, whose images depend on each other.
    public static func joined(_ images: [ImageKV]) throws -> ImageKV {
        let first = images[0]
        if images.count == 1 { return first }
        guard images.allSatisfy({ $0.modelId == first.modelId }) else {
            throw HimixError("the images' keys and values were made by different models; encode them with this one")
        }
        guard first.nextPosition == 0 else {
            throw HimixError(
                "a vanilla model takes one image: its image tokens have positions, so they cannot be joined")
        }
        return ImageKV(
            key: joined(images.map(\.key)), value: joined(images.map(\.value)), modelId: first.modelId, nextPosition: 0)
    }

    private static func joined(_ tensors: [Tensor]) -> Tensor {
        var shape = tensors[0].shape
        var values = [Float]()
        for block in 0..<(shape[0] * shape[1]) {
            for tensor in tensors {
                let size = tensor.shape[2] * tensor.shape[3]
                values += tensor.values[(block * size)..<((block + 1) * size)]
            }
        }
        shape[2] = tensors.reduce(0) { $0 + $1.shape[2] }
        return Tensor(shape: shape, values: values)
    }
}
