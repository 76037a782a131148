import Foundation

/// An image as 8-bit RGB, row by row from the top, three bytes a pixel.
public struct RGBImage: Sendable, Equatable {
    /// Images beyond this are refused, as in the Python package.
    public static let maxPixels = 100_000_000
    public static let maxSide = 65_535

    public let width: Int
    public let height: Int
    public let pixels: [UInt8]

    /// - Throws: `HimixError`: no pixels, more than `maxPixels`, or not 3 bytes for each.
    public init(width: Int, height: Int, pixels: [UInt8]) throws {
        try Self.checkSize(width: width, height: height)
        guard pixels.count == width * height * 3 else {
            throw HimixError("an image of \(width) x \(height) pixels needs \(width * height * 3) bytes")
        }
        (self.width, self.height, self.pixels) = (width, height, pixels)
    }

    /// From RGBA with straight alpha, over white.
    public init(width: Int, height: Int, straightRGBA: [UInt8]) throws {
        try Self.checkSize(width: width, height: height)
        guard straightRGBA.count == width * height * 4 else {
            throw HimixError("an RGBA image of \(width) x \(height) pixels needs \(width * height * 4) bytes")
        }
        var pixels = [UInt8]()
        pixels.reserveCapacity(width * height * 3)
        for i in stride(from: 0, to: straightRGBA.count, by: 4) {
            let alpha = Int(straightRGBA[i + 3])
            for color in straightRGBA[i..<(i + 3)] {
                let mixed = (Int(color) * alpha + 255 * (255 - alpha) + 128) << 7
                pixels.append(UInt8((((mixed >> 8) + mixed) >> 8) >> 7))
            }
        }
        try self.init(width: width, height: height, pixels: pixels)
    }

    /// A rearrangement of an image that is known to be sound.
    init(trustedWidth width: Int, height: Int, pixels: [UInt8]) {
        (self.width, self.height, self.pixels) = (width, height, pixels)
    }

    /// SHA-256 of the pixels, as a bundle's self-test states it.
    public var digest: String { sha256(Data(pixels)) }

    /// - Throws: `HimixError`: no pixels, or more than `maxPixels`. For decoders, before they allocate.
    public static func checkSize(width: Int, height: Int) throws {
        let (count, overflow) = width.multipliedReportingOverflow(by: height)
        guard width > 0, height > 0 else { throw HimixError("the image has no pixels") }
        guard !overflow, count <= maxPixels, max(width, height) <= maxSide else {
            let many = overflow || count > maxPixels
            let limit = many ? "over \(maxPixels / 1_000_000) megapixels" : "with a side over \(maxSide)"
            throw HimixError("\(width) x \(height) pixels; images \(limit) are refused, scale it down first")
        }
    }
}
