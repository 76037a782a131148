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

    /// What is drawn of a stored image, turned, is the upright image's rows: for every orientation and in any strips.
    func testStripsOfAStoredImageAreThoseOfTheUprightOne() throws {
        let stored = try Goldens.stored("noisy-97x61.png")
        for orientation in 0...9 {
            let upright = try stored.upright(orientation)
            for band in [1, 7, 40, 200] {
                var rows = [UInt8]()
                for from in stride(from: 0, to: upright.height, by: band) {
                    let range = from..<min(upright.height, from + band)
                    let strip = StoredStrip(
                        of: range, width: stored.width, height: stored.height, orientation: orientation)
                    rows += try stored.cut(strip).upright(orientation).pixels
                }
                XCTAssertEqual(rows, upright.pixels, "orientation \(orientation), \(band) rows at once")
            }
        }
    }

    func testALargePhotoIsNeverHeldWhole() throws {
        for (width, height) in [(8064, 600), (700, 9000), (40_000, 40)] {
            let photo = CountedPhoto(width: width, height: height)
            let resized = try photo.resized(to: 64, .bilinear)
            XCTAssertEqual(photo.counts.rows, height)
            XCTAssertLessThanOrEqual(photo.counts.mostBytes, 3 << 20, "\(width) x \(height)")
            XCTAssertEqual(resized, try photo.whole().resized(to: 64, .bilinear))
        }
        let damaged = CountedPhoto(width: 8064, height: 600, failsAt: 300)
        XCTAssertEqual(refusal(try damaged.resized(to: 64, .bicubic)), "photo: damaged")
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

/// A photo made row by row, which counts what it is asked for.
private struct CountedPhoto: PixelSource {
    final class Counts: @unchecked Sendable {  // one thread asks
        var (rows, mostBytes) = (0, 0)
    }

    let width: Int
    let height: Int
    var failsAt = Int.max
    let counts = Counts()

    func rows(_ range: Range<Int>) throws -> [UInt8] {
        if range.upperBound > failsAt { throw HimixError("photo: damaged") }
        XCTAssertEqual(range.lowerBound, counts.rows, "from top to bottom, once for each row")
        counts.rows = range.upperBound
        let bytes = made(range)
        counts.mostBytes = max(counts.mostBytes, bytes.count)
        return bytes
    }

    func whole() throws -> RGBImage { try RGBImage(width: width, height: height, pixels: made(0..<height)) }

    private func made(_ range: Range<Int>) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: range.count * width * 3)
        var state = UInt32(truncatingIfNeeded: range.lowerBound)
        bytes.withUnsafeMutableBufferPointer { bytes in
            for row in 0..<range.count {
                state = UInt32(truncatingIfNeeded: range.lowerBound + row)
                for at in (row * width * 3)..<((row + 1) * width * 3) {
                    state = state &* 1_664_525 &+ 1_013_904_223
                    bytes[at] = UInt8(truncatingIfNeeded: state >> 24)
                }
            }
        }
        return bytes
    }
}

extension RGBImage {
    fileprivate func cut(_ strip: StoredStrip) throws -> RGBImage {
        var cut = [UInt8]()
        for y in strip.y..<(strip.y + strip.height) {
            cut += pixels[((y * width + strip.x) * 3)..<((y * width + strip.x + strip.width) * 3)]
        }
        return try RGBImage(width: strip.width, height: strip.height, pixels: cut)
    }
}
