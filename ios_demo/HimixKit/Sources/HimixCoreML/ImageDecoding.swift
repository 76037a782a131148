import CoreGraphics
import Foundation
import HimixCore
import ImageIO

/// An image file's first frame, upright by its EXIF orientation, over white, in sRGB, not scaled. Its rows are drawn as
/// they are needed: beside what Image I/O decodes (4 bytes a pixel), a large photo takes a few megabytes.
public final class DecodedImage: PixelSource, @unchecked Sendable {  // a CGImage never changes
    public let width: Int
    public let height: Int
    private let image: CGImage
    private let orientation: Int
    private let name: String

    private init(_ image: CGImage, orientation: Int, name: String) throws {
        try RGBImage.checkSize(width: image.width, height: image.height)
        (self.image, self.orientation, self.name) = (image, orientation, name)
        let turned = (5...8).contains(orientation)
        (width, height) = turned ? (image.height, image.width) : (image.width, image.height)
    }

    /// - Throws: `HimixError`: not an image, damaged, or over 100 megapixels.
    public static func decode(_ data: Data, name: String) throws -> DecodedImage {
        guard let source = CGImageSourceCreateWithData(data as CFData, nil), CGImageSourceGetCount(source) > 0 else {
            throw HimixError("\(name): not an image that can be read")
        }
        let properties = CGImageSourceCopyPropertiesAtIndex(source, 0, nil) as? [CFString: Any] ?? [:]
        if let width = properties[kCGImagePropertyPixelWidth] as? Int,
            let height = properties[kCGImagePropertyPixelHeight] as? Int
        {
            try RGBImage.checkSize(width: width, height: height)  // before anything is decoded
        }
        // once, and not again for each strip
        let options = [kCGImageSourceShouldCacheImmediately: true] as CFDictionary
        guard let image = CGImageSourceCreateImageAtIndex(source, 0, options) else {
            throw HimixError("\(name): damaged image")
        }
        guard CGImageSourceGetStatusAtIndex(source, 0) == .statusComplete else {
            throw HimixError("\(name): a damaged image: it is cut off")
        }
        let isDeep = image.bitsPerComponent > 8
        if isDeep, ["public.png", "public.tiff"].contains(CGImageSourceGetType(source) as String?) {
            throw HimixError("\(name): it has 16 bits a channel, which this system rounds; save it with 8")
        }
        if image.colorSpace?.model == .cmyk {
            throw HimixError("\(name): a CMYK image, which devices show in different colors; save it as RGB")
        }
        return try DecodedImage(image, orientation: properties[kCGImagePropertyOrientation] as? Int ?? 1, name: name)
    }

    public static func decode(fileAt url: URL) throws -> DecodedImage {
        let name = url.lastPathComponent
        guard let data = try? Data(contentsOf: url) else { throw HimixError("\(name): cannot be read") }
        return try decode(data, name: name)
    }

    public func rows(_ range: Range<Int>) throws -> [UInt8] {
        let strip = StoredStrip(of: range, width: image.width, height: image.height, orientation: orientation)
        return try pixels(of: strip).upright(orientation).pixels
    }

    /// Colours are converted by Core Graphics; size and position stay, so nothing is interpolated.
    private func pixels(of strip: StoredStrip) throws -> RGBImage {
        let (width, height) = (strip.width, strip.height)
        guard let space = CGColorSpace(name: CGColorSpace.sRGB),
            let context = CGContext(
                data: nil, width: width, height: height, bitsPerComponent: 8, bytesPerRow: width * 4, space: space,
                bitmapInfo: CGImageAlphaInfo.noneSkipLast.rawValue)
        else { throw HimixError("\(name): no memory for \(width) x \(height) pixels; scale it down first") }
        context.setFillColor(red: 1, green: 1, blue: 1, alpha: 1)
        context.fill(CGRect(x: 0, y: 0, width: width, height: height))
        context.interpolationQuality = .none
        // Core Graphics counts from the bottom
        let below = image.height - strip.y - height
        context.draw(image, in: CGRect(x: -strip.x, y: -below, width: image.width, height: image.height))
        guard let data = context.data else { throw HimixError("\(name): damaged image") }
        let bytes = UnsafeRawBufferPointer(start: data, count: context.bytesPerRow * height)
        var pixels = [UInt8]()
        pixels.reserveCapacity(width * height * 3)
        for y in 0..<height {
            for x in 0..<width {
                let at = y * context.bytesPerRow + x * 4
                pixels.append(bytes[at])
                pixels.append(bytes[at + 1])
                pixels.append(bytes[at + 2])
            }
        }
        return try RGBImage(width: width, height: height, pixels: pixels)
    }
}
