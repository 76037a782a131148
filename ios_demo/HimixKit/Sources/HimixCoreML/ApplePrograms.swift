import CoreML
import CoreVideo
import Foundation
import HimixCore

/// A bundle's packages in Core ML: three models and the decoder's state, which `prefill` and `decode` share.
@Inference
final class ApplePrograms: CoreMLPrograms {
    let provider: String  // "core-ml cpu+npu"
    private let encoder: MLModel
    private let injector: MLModel
    private let functions: [DecoderCall.Function: MLModel]
    private let state: MLState
    private let cacheShape: [Int]

    /// - Parameter compiled: the compiled model of each role.
    /// - Throws: `HimixError` naming the package that Core ML cannot load, or that is not what the manifest says.
    init(compiled: [String: URL], manifest: Manifest, units: ComputeUnits) throws {
        func load(_ role: String, function: DecoderCall.Function? = nil) throws -> MLModel {
            let configuration = MLModelConfiguration()
            configuration.computeUnits = units.coreML
            if let function { configuration.functionName = function.rawValue }
            guard let url = compiled[role] else { throw HimixError("\(role): no compiled model") }
            do {
                return try MLModel(contentsOf: url, configuration: configuration)
            } catch {
                throw HimixError("\(role): Core ML cannot load it (\(error.localizedDescription))")
            }
        }
        provider = "core-ml \(units.rawValue)"
        encoder = try load("vision_encoder")
        injector = try load("vision_injector")
        let decode = try load("decoder", function: .decode)
        functions = [.prefill: try load("decoder", function: .prefill), .decode: decode]
        state = decode.makeState()
        cacheShape = CoreMLEngine.cacheShape(manifest)
        try checkStates(decode.modelDescription)
    }

    func encode(_ pixels: RGBImage) throws -> Tensor {
        let image = MLFeatureValue(pixelBuffer: try pixelBuffer(pixels))
        return try tensor("vision_features", of: predict(encoder, "vision_encoder", ["image": image]))
    }

    func inject(_ features: Tensor) throws -> (key: Tensor, value: Tensor) {
        let array = MLShapedArray<Float>(scalars: features.values, shape: features.shape)
        let input = ["vision_features": MLFeatureValue(shapedArray: array)]
        let output = try predict(injector, "vision_injector", input)
        return (try tensor("vision_key", of: output), try tensor("vision_value", of: output))
    }

    func write(_ image: CacheImage, toState name: String) throws {
        try state.withMultiArray(for: name) { array in
            let type = array.dataType
            try array.withUnsafeMutableBytes { bytes, strides in
                bytes.initializeMemory(as: UInt8.self, repeating: 0)
                switch type {
                case .float16: image.write(into: bytes.bindMemory(to: Float16.self), strides: strides)
                case .float32: image.write(into: bytes.bindMemory(to: Float.self), strides: strides)
                default: throw HimixError("decoder: state \(name) has numbers of another type; export the bundle again")
                }
            }
        }
    }

    func decode(_ call: DecoderCall) throws -> [Float] {
        func array(_ values: [Int32], _ shape: [Int]) -> MLFeatureValue {
            MLFeatureValue(shapedArray: MLShapedArray<Int32>(scalars: values, shape: shape))
        }
        let inputs = [
            "input_ids": array(call.inputIds, [1, call.inputIds.count]), "start": array([call.start], [1]),
            "position": array([call.position], [1]), "last": array([call.last], [1]),
        ]
        guard let model = functions[call.function] else { throw HimixError("decoder: no \(call.function.rawValue)") }
        return try tensor("logits", of: predict(model, "decoder", inputs, using: state)).values
    }

    private func predict(
        _ model: MLModel, _ role: String, _ inputs: [String: MLFeatureValue], using state: MLState? = nil
    ) throws -> any MLFeatureProvider {
        do {
            let provider = try MLDictionaryFeatureProvider(dictionary: inputs)
            if let state { return try model.prediction(from: provider, using: state) }
            return try model.prediction(from: provider)
        } catch {
            throw HimixError("\(role): Core ML cannot compute it (\(error.localizedDescription))")
        }
    }

    private func tensor(_ name: String, of output: any MLFeatureProvider) throws -> Tensor {
        guard let array = output.featureValue(for: name)?.shapedArrayValue(of: Float.self) else {
            throw HimixError("the model has no float32 output \(name); export the bundle again")
        }
        return Tensor(shape: array.shape, values: array.scalars)
    }

    private func checkStates(_ description: MLModelDescription) throws {
        for name in ["key_cache", "value_cache"] {
            guard description.stateDescriptionsByName[name] != nil else {
                throw HimixError("decoder: no state \(name); export the bundle again")
            }
            let found = state.withMultiArray(for: name) { array in array.shape.map(\.intValue) }
            guard found == cacheShape else {
                throw HimixError("decoder: state \(name) is \(found), the manifest says \(cacheShape)")
            }
        }
    }

    /// The pixels as Core ML takes an image: BGRA, unscaled.
    private func pixelBuffer(_ image: RGBImage) throws -> CVPixelBuffer {
        var made: CVPixelBuffer?
        let status = CVPixelBufferCreate(nil, image.width, image.height, kCVPixelFormatType_32BGRA, nil, &made)
        guard status == kCVReturnSuccess, let buffer = made else {
            throw HimixError("no memory for an image of \(image.width) x \(image.height) pixels")
        }
        CVPixelBufferLockBaseAddress(buffer, [])
        defer { CVPixelBufferUnlockBaseAddress(buffer, []) }
        guard let base = CVPixelBufferGetBaseAddress(buffer) else { throw HimixError("no memory for an image") }
        let target = base.assumingMemoryBound(to: UInt8.self)
        let rowBytes = CVPixelBufferGetBytesPerRow(buffer)
        for y in 0..<image.height {
            for x in 0..<image.width {
                let (from, to) = ((y * image.width + x) * 3, y * rowBytes + x * 4)
                target[to] = image.pixels[from + 2]
                target[to + 1] = image.pixels[from + 1]
                target[to + 2] = image.pixels[from]
                target[to + 3] = 255
            }
        }
        return buffer
    }
}
