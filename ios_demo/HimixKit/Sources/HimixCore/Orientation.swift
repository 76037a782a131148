extension RGBImage {
    /// Turned and mirrored as an EXIF orientation (1...8) says; other values mean upright.
    public func upright(_ orientation: Int) -> RGBImage {
        guard (2...8).contains(orientation) else { return self }
        let turned = orientation >= 5
        let (newWidth, newHeight) = turned ? (height, width) : (width, height)
        var result = [UInt8]()
        result.reserveCapacity(pixels.count)
        for y in 0..<newHeight {
            for x in 0..<newWidth {
                let (fromX, fromY) = source(x, y, orientation)
                let at = (fromY * width + fromX) * 3
                result.append(pixels[at])
                result.append(pixels[at + 1])
                result.append(pixels[at + 2])
            }
        }
        return RGBImage(trustedWidth: newWidth, height: newHeight, pixels: result)
    }

    /// Where the upright image's pixel (x, y) is in this one.
    private func source(_ x: Int, _ y: Int, _ orientation: Int) -> (x: Int, y: Int) {
        let (right, bottom) = (width - 1, height - 1)
        switch orientation {
        case 2: return (right - x, y)
        case 3: return (right - x, bottom - y)
        case 4: return (x, bottom - y)
        case 5: return (y, x)
        case 6: return (y, bottom - x)
        case 7: return (right - y, bottom - x)
        default: return (right - y, x)
        }
    }
}
