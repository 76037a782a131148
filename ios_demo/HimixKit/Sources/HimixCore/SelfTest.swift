import Foundation

/// What a bundle's self-test found: one image, one prompt, the exact answer it has to give on any device.
public struct SelfTestResult: Sendable {
    /// Whether the resized image has the digest of the manifest.
    public let pixelsEqual: Bool
    public let answer: String
    public let expected: String
    /// Pixels and token ids are exactly the expected ones; of an answer that isn't decisive, the pixels.
    public let passed: Bool
    public let stats: Stats
}

extension Session {
    /// Run the bundle's self-test.
    ///
    /// - Parameter load: decodes an image file.
    public func selfTest(
        _ bundle: ModelBundle, load: @escaping @Sendable (URL) throws -> any PixelSource
    ) throws -> SelfTestResult {
        let question = manifest.selftest
        let url = bundle.url(question.image)
        let image = try load(url)
        let resized = try image.resized(to: manifest.preprocessing.imageSize, manifest.preprocessing.filter)
        let same = resized.digest == question.pixelsSha256
        let further = question.ends == false ? 0 : 1
        let options = AnswerOptions(maxNewTokens: question.tokenIds.count + further, temperature: 0)
        let answer = try generate(question.prompt, images: [.pixels({ try load(url) })], options: options)
        let (tokens, text) = try answer.collect()
        let right = tokens == question.tokenIds || question.decisive == false
        return SelfTestResult(
            pixelsEqual: same, answer: text, expected: question.text, passed: same && right,
            stats: answer.stats)
    }
}
