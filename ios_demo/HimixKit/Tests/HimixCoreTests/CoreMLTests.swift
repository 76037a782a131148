// On a Mac: the same questions in Core ML itself. Elsewhere there is no Core ML, and the programs run in Python.
#if canImport(HimixCoreML)
    import Foundation
    import HimixCore
    import HimixCoreML
    import XCTest

    final class CoreMLTests: XCTestCase {
        func testTheSelfTest() async throws {
            let opened = try await Self.open()
            let result = try await opened.session.selfTest(opened.bundle) { try DecodedImage.decode(fileAt: $0) }
            XCTAssertTrue(result.pixelsEqual, "the PNG was decoded to other pixels")
            XCTAssertTrue(result.passed, "\(result.answer) instead of \(result.expected)")
        }

        func testQuestionsTokenForToken() async throws {
            let opened = try await Self.open()
            for golden in Goldens.answers.questions {
                let tokens = try await Self.answer(opened.session, golden)
                XCTAssertEqual(tokens, golden.tokenIds, "\(golden.image): \(golden.prompt)")
            }
        }

        private static func open() async throws -> OpenedModel {
            let folder = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)
            let memory = UnitsMemory(folder.appendingPathComponent("units.json"), system: "test")
            let marker = OpeningMarker(folder.appendingPathComponent("opening.json"))
            return try await OpenedModel.open(Goldens.bundle, shipped: true, marker: marker, memory: memory)
        }

        @Inference
        private static func answer(_ session: Session, _ golden: Goldens.Question) throws -> [Int] {
            let image = ImageInput.pixels { try Goldens.image(golden.image) }
            return try session.generate(golden.prompt, images: [image]).collect().tokens
        }
    }
#endif
