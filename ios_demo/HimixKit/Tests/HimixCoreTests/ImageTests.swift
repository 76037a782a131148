import Foundation
import XCTest

@testable import HimixCore

final class ImageTests: XCTestCase {
    func testResizedPixelsAreThoseOfPillow() throws {
        var filters = Set<String>()
        for golden in Goldens.shared.resized {
            let filter: ResizeFilter = golden.filter == "bilinear" ? .bilinear : .bicubic
            let resized = try Goldens.image(golden.file).resized(to: golden.side, filter)
            XCTAssertEqual(resized.digest, golden.sha256, "\(golden)")
            filters.insert(golden.filter)
        }
        XCTAssertEqual(filters, ["bilinear", "bicubic"])
        XCTAssertEqual(Goldens.shared.resized.count, 56)
    }

    func testTransparencyOverWhiteIsPillows() throws {
        let golden = Goldens.shared.transparent
        let rgba = [UInt8](try Data(contentsOf: Goldens.url(golden.file)))
        let image = try RGBImage(width: golden.width, height: golden.height, straightRGBA: rgba)
        XCTAssertEqual(image.digest, golden.sha256)
    }

    func testExifOrientationsAreThoseOfPillow() throws {
        XCTAssertEqual(Goldens.shared.upright.count, 8)
        for golden in Goldens.shared.upright {
            let upright = try Goldens.image("resize4.ppm").upright(golden.orientation)
            XCTAssertEqual(upright.digest, golden.sha256, "\(golden)")
            XCTAssertEqual(upright.width, golden.width)
        }
        XCTAssertEqual(try Goldens.image("resize4.ppm").upright(9), try Goldens.image("resize4.ppm"))
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
