import Foundation
import HimixCore
import HimixCoreML
import ImageIO
import SwiftUI
import UIKit

/// A picked or taken picture: its file's bytes, decoded when a question needs them, and a preview.
struct Photo: Sendable {
    let name: String
    let preview: UIImage
    /// Upright sRGB pixels at full size, a strip at a time; the session scales them as the model wants.
    let picture: Picture

    init?(data: Data, name: String) {
        guard let preview = Self.thumbnail(data) else { return nil }
        (self.name, self.preview) = (name, preview)
        picture = Picture { try DecodedImage.decode(data, name: name) }
    }

    /// At most 1024 pixels a side, upright; the photo is not decoded at its full size for it.
    private static func thumbnail(_ data: Data) -> UIImage? {
        let options: [CFString: Any] = [
            kCGImageSourceCreateThumbnailFromImageAlways: true, kCGImageSourceCreateThumbnailWithTransform: true,
            kCGImageSourceThumbnailMaxPixelSize: 1024,
        ]
        guard let source = CGImageSourceCreateWithData(data as CFData, nil),
            let image = CGImageSourceCreateThumbnailAtIndex(source, 0, options as CFDictionary)
        else { return nil }
        return UIImage(cgImage: image)
    }
}
