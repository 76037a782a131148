import XCTest

@testable import HimixCore

final class CacheTests: XCTestCase {
    /// Layers that share a row or have none, a cache with padding between its rows, float16 numbers.
    func testAnImageInAPaddedCache() {
        let tensor = Tensor(shape: [2, 2, 3, 2], values: (0..<24).map { Float($0) + 1 })
        let image = CacheImage(tensor: tensor, rows: [1, nil, 0, 1], cacheShape: [4, 2, 5, 2])
        let strides = [100, 40, 8, 2]
        var cache = [Float16](repeating: 0, count: 400)
        cache.withUnsafeMutableBufferPointer { image.write(into: $0, strides: strides) }
        var written = 0
        for (layer, row) in [1, nil, 0, 1].enumerated() {
            for head in 0..<2 {
                for slot in 0..<5 {
                    for i in 0..<2 {
                        let found = cache[layer * 100 + head * 40 + slot * 8 + i * 2]
                        let expected = row.map { slot < 3 ? Float16(((($0 * 2) + head) * 3 + slot) * 2 + i + 1) : 0 }
                        XCTAssertEqual(found, expected ?? 0)
                        written += found == 0 ? 0 : 1
                    }
                }
            }
        }
        XCTAssertEqual(written, 36)
        XCTAssertEqual(cache.filter { $0 != 0 }.count, 36, "nothing between the rows was touched")
    }
}
