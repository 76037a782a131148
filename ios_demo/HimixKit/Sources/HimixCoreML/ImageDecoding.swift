import CoreGraphics
import Foundation
import HimixCore
import ImageIO

extension RGBImage {
    /// An image file's first frame, upright by its EXIF orientation, over white, in sRGB. Not scaled.
    ///
    /// - Throws: `HimixError`: not an image, damaged, or over 100 megapixels.
    public static func decode(_ data: Data, name: String) throws -> RGBImage {
        guard let source = CGImageSourceCreateWithData(data as CFData, nil), CGImageSourceGetCount(source) > 0 else {
            throw HimixError("\(name): not an image that can be read")
        }
        let properties = CGImageSourceCopyPropertiesAtIndex(source, 0, nil) as? [CFString: Any] ?? [:]
        if let width = properties[kCGImagePropertyPixelWidth] as? Int,
            let height = properties[kCGImagePropertyPixelHeight] as? Int
        {
            try checkSize(width: width, height: height)  // before anything is decoded
        }
        guard let image = CGImageSourceCreateImageAtIndex(source, 0, nil) else {
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
        let orientation = properties[kCGImagePropertyOrientation] as? Int ?? 1
        return try pixels(of: image, name: name).upright(orientation)
    }

    public static func decode(fileAt url: URL) throws -> RGBImage {
        let name = url.lastPathComponent
        guard let data = try? Data(contentsOf: url) else { throw HimixError("\(name): cannot be read") }
        return try decode(data, name: name)
    }

    /// Colours are converted by Core Graphics; size and position stay, so nothing is interpolated.
    private static func pixels(of image: CGImage, name: String) throws -> RGBImage {
        let (width, height) = (image.width, image.height)
        try checkSize(width: width, height: height)
        guard let space = CGColorSpace(name: CGColorSpace.sRGB),
            let context = CGContext(
                data: nil, width: width, height: height, bitsPerComponent: 8, bytesPerRow: width * 4, space: space,
                bitmapInfo: CGImageAlphaInfo.noneSkipLast.rawValue)
        else { throw HimixError("\(name): no memory for \(width) x \(height) pixels; scale it down first") }
        let all = CGRect(x: 0, y: 0, width: width, height: height)
        context.setFillColor(red: 1, green: 1, blue: 1, alpha: 1)
        context.fill(all)
        context.interpolationQuality = .none
        context.draw(image, in: all)
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
