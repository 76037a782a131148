import Foundation
import HimixCore
import HimixCoreML
import SwiftUI
import UIKit

/// A picked or taken picture: its file's bytes, decoded when a question needs them, and a preview.
struct Photo: Sendable {
    let data: Data
    let name: String
    let preview: UIImage

    init?(data: Data, name: String) {
        guard let preview = UIImage(data: data)?.preparingThumbnail(of: CGSize(width: 1024, height: 1024)) else {
            return nil
        }
        (self.data, self.name, self.preview) = (data, name, preview)
    }

    /// Upright sRGB pixels at full size; the session scales them as the model wants.
    var decode: @Sendable () throws -> RGBImage {
        let (data, name) = (data, name)
        return { try RGBImage.decode(data, name: name) }
    }
}
