import Foundation
import XCTest

@testable import HimixCore

final class BundleTests: XCTestCase {
    private var folder = URL(fileURLWithPath: "/")
    private let files = FileManager.default

    override func setUpWithError() throws {
        folder = files.temporaryDirectory.appendingPathComponent(UUID().uuidString)
        try files.copyItem(at: Goldens.bundle, to: folder)
    }

    override func tearDownWithError() throws {
        try files.removeItem(at: folder)
    }

    func testTheRealBundleOpens() throws {
        var shares = [Double]()
        let bundle = try ModelBundle(verifying: folder) { shares.append($0) }
        XCTAssertEqual(bundle.manifest.target, "coreml")
        XCTAssertEqual(bundle.manifest.allFiles.count, 12)
        XCTAssertEqual(shares.last, 1)
        XCTAssertEqual(shares, shares.sorted())
        XCTAssertTrue(bundle.roleURL("decoder").path.hasSuffix("decoder.mlpackage/Manifest.json"))
        XCTAssertEqual(bundle.manifest.model.visionRows, [0, 1, 2, 3])
    }

    func testAFlippedByte() throws {
        let url = folder.appendingPathComponent("decoder.mlpackage/Data/com.apple.CoreML/weights/weight.bin")
        var data = try Data(contentsOf: url)
        data[data.count / 2] ^= 1
        try data.write(to: url)
        XCTAssertEqual(
            refused,
            "decoder.mlpackage/Data/com.apple.CoreML/weights/weight.bin: content does not match its SHA-256 in the "
                + "manifest; export or copy the bundle again")
    }

    func testATruncatedFile() throws {
        let url = folder.appendingPathComponent("tokenizer.json")
        let data = try Data(contentsOf: url)
        try data.dropLast().write(to: url)
        XCTAssertEqual(
            refused,
            "tokenizer.json: \(data.count - 1) bytes, the manifest says \(data.count); export or copy the bundle again")
    }

    func testAMissingFile() throws {
        try files.removeItem(at: folder.appendingPathComponent("selftest/image.png"))
        XCTAssertEqual(refused, "selftest/image.png: missing; the bundle is incomplete, export or copy it again")
    }

    func testAFileInTheBundlesPlaceThatLeadsOutside() throws {
        let outside = files.temporaryDirectory.appendingPathComponent(UUID().uuidString)
        try files.moveItem(at: folder.appendingPathComponent("tokenizer.json"), to: outside)
        try files.createSymbolicLink(
            at: folder.appendingPathComponent("tokenizer.json"), withDestinationURL: outside)
        XCTAssertEqual(refused, "tokenizer.json: a link that leaves the bundle; refused")
        try files.removeItem(at: outside)
    }

    func testPathsThatLeaveTheFolder() throws {
        for path in ["../up", "a/../../up", "/etc/passwd", "", "c:x", "a\\b", "a/..", "../\u{301}x", "x\u{0}y"] {
            try edit { manifest in
                var files = manifest["files"] as! [[String: Any]]
                files[0]["path"] = path
                manifest["files"] = files
            }
            let shown = path.replacingOccurrences(of: "\0", with: "\u{fffd}")
            XCTAssertEqual(refused, "manifest.json: path \"\(shown)\" leaves the bundle; refused")
        }
    }

    func testManifestsThatBreakTheSchema() throws {
        let cases: [(String, Any?, String)] = [
            ("schema_version", 2, "manifest.json: schema version 2; this app reads version 1"),
            ("schema_version", "1", "manifest.json: schema_version: not a Int"),
            ("chat_template", ["user": ["one"]], "manifest.json: chat_template.user"),
            ("context_capacity", 0, "manifest.json: context_capacity: 0 is out of range"),
            ("context_capacity", 1 << 40, "manifest.json: context_capacity: \(1 << 40) is out of range"),
            ("preprocessing", ["image_size": 64, "method": "stretch"], "manifest.json: preprocessing.method"),
            ("roles", ["decoder": []], "manifest.json: roles: no file for vision_encoder, vision_injector, decoder"),
            ("files", nil, "manifest.json: files: missing"),
        ]
        let original = try Data(contentsOf: folder.appendingPathComponent("manifest.json"))
        for (field, value, message) in cases {
            try original.write(to: folder.appendingPathComponent("manifest.json"))
            try edit { $0[field] = value }
            XCTAssertTrue(refused.hasPrefix(message), "\(field): \(refused)")
        }
        for field in ["num_hidden_layers", "head_dim"] {
            try original.write(to: folder.appendingPathComponent("manifest.json"))
            try edit { manifest in
                var model = manifest["model"] as! [String: Any]
                model[field] = 1 << 30
                manifest["model"] = model
            }
            XCTAssertTrue(refused.hasPrefix("manifest.json: model.\(field): "), refused)
        }
    }

    func testWhatIsNoBundle() throws {
        let manifest = folder.appendingPathComponent("manifest.json")
        try Data("{\"schema_version\": 1".utf8).write(to: manifest)
        XCTAssertEqual(refused, "manifest.json: not valid JSON")
        try Data(repeating: 32, count: (4 << 20) + 1).write(to: manifest)
        XCTAssertEqual(refused, "manifest.json: larger than 4 MiB; refused")
        try files.removeItem(at: manifest)
        XCTAssertEqual(refused, "\(folder.path): no manifest.json in it; is it a bundle?")
        let nowhere = folder.appendingPathComponent("nowhere")
        XCTAssertEqual(refusal(try ModelBundle(verifying: nowhere)), "\(nowhere.path): no such bundle folder")
    }

    func testLayersThatShareOrLackKeys() throws {
        func rows(_ injection: [String: Any], _ architecture: String = "himix", levels: [Int] = [-1]) throws -> [Int?] {
            try edit { manifest in
                var model = manifest["model"] as! [String: Any]
                var tower = model["vision_config"] as! [String: Any]
                tower["feature_layers"] = levels
                model["vision_config"] = tower
                model["injection"] = injection
                model["architecture"] = architecture
                manifest["model"] = model
            }
            return try Manifest.read(folder).model.visionRows
        }
        XCTAssertEqual(try rows(["layers": [1, 3], "sharing": "none"]), [nil, 0, nil, 1])
        XCTAssertEqual(try rows(["layers": NSNull(), "sharing": "uniform"]), [0, 0, 0, 0])
        XCTAssertEqual(try rows(["layers": NSNull(), "sharing": "levels"], levels: [-1, -3]), [0, 0, 1, 1])
        XCTAssertEqual(try rows(["layers": NSNull(), "sharing": "none"], "vanilla"), [0, 1, 2, 3])
        XCTAssertTrue(refusal(try rows(["layers": [3, 1], "sharing": "none"])).contains("not rising layer numbers"))
        XCTAssertTrue(refusal(try rows(["layers": [4], "sharing": "none"])).contains("not rising layer numbers"))
    }

    private var refused: String { refusal(try ModelBundle(verifying: folder)) }

    private func edit(_ change: (inout [String: Any]) -> Void) throws {
        let url = folder.appendingPathComponent("manifest.json")
        var manifest = try JSONSerialization.jsonObject(with: Data(contentsOf: url)) as! [String: Any]
        change(&manifest)
        try JSONSerialization.data(withJSONObject: manifest).write(to: url)
    }
}
