import Foundation
import XCTest

@testable import HimixCore

final class ImageTests: XCTestCase {
    func testResizedPixelsAreThoseOfPillow() throws {
        var (methods, count) = (Set<String>(), 0)
        for (name, golden) in Goldens.images where !golden.resized.isEmpty {
            let image = try Goldens.image(name)
            for expected in golden.resized {
                let filter: ResizeFilter = expected.method == "pillow-bilinear-squash" ? .bilinear : .bicubic
                let resized = try image.resized(to: expected.size, filter)
                XCTAssertEqual(resized.digest, expected.sha256, "\(name) \(expected)")
                methods.insert(expected.method)
                count += 1
            }
        }
        XCTAssertEqual(methods, ["pillow-bilinear-squash", "pillow-bicubic-squash"])
        XCTAssertGreaterThan(count, 400)
    }

    func testTransparencyAndExifOrientationsAreThoseOfPillow() throws {
        var (transparent, orientations) = (0, Set<Int>())
        for (name, golden) in Goldens.images {
            let upright = try Goldens.image(name)
            XCTAssertEqual(upright.digest, golden.upright.sha256, name)
            XCTAssertEqual([upright.width, upright.height], [golden.upright.width, golden.upright.height], name)
            transparent += golden.channels == 4 ? 1 : 0
            orientations.insert(golden.orientation)
        }
        XCTAssertGreaterThan(transparent, 5)
        XCTAssertEqual(orientations, Set(1...8))
        let image = try Goldens.stored("noisy-97x61.png")
        XCTAssertEqual(try image.upright(9), image)
    }

    func testImpossibleImagesAreRefused() {
        XCTAssertEqual(refusal(try RGBImage.checkSize(width: 0, height: 5)), "the image has no pixels")
        XCTAssertEqual(
            refusal(try RGBImage.checkSize(width: 20000, height: 20000)),
            "20000 x 20000 pixels; images over 100 megapixels are refused, scale it down first")
        XCTAssertTrue(refusal(try RGBImage.checkSize(width: .max, height: 2)).contains("megapixels are refused"))
        XCTAssertEqual(
            refusal(try RGBImage(width: 2, height: 2, pixels: [1, 2, 3])), "an image of 2 x 2 pixels needs 12 bytes")
    }
}
