/// An upright image in 8-bit RGB whose rows are had as they are needed, so that a large photo is never held whole.
public protocol PixelSource: Sendable {
    var width: Int { get }
    var height: Int { get }

    /// Rows `from..<to`, three bytes a pixel. Called from top to bottom, once for each row.
    ///
    /// - Throws: `HimixError`: the image is damaged there.
    func rows(_ range: Range<Int>) throws -> [UInt8]
}

extension RGBImage: PixelSource {
    public func rows(_ range: Range<Int>) -> [UInt8] {
        Array(pixels[(range.lowerBound * width * 3)..<(range.upperBound * width * 3)])
    }
}

/// Where the rows of an upright image lie in the stored one, which has an EXIF orientation.
public struct StoredStrip: Sendable, Equatable {
    public let x: Int
    public let y: Int
    public let width: Int
    public let height: Int

    /// - Parameters:
    ///   - range: rows of the upright image.
    ///   - width: of the stored image, as is `height`.
    public init(of range: Range<Int>, width: Int, height: Int, orientation: Int) {
        let count = range.count
        switch orientation {
        case 3, 4: (x, y, self.width, self.height) = (0, height - range.upperBound, width, count)
        case 5, 6: (x, y, self.width, self.height) = (range.lowerBound, 0, count, height)
        case 7, 8: (x, y, self.width, self.height) = (width - range.upperBound, 0, count, height)
        default: (x, y, self.width, self.height) = (0, range.lowerBound, width, count)
        }
    }
}
