import Foundation

/// A file that is there while a bundle is being opened. If the app finds it when it starts, opening ended the app (for
/// want of memory, or inside of Core ML), and it would do so at every start.
public struct OpeningMarker: Sendable {
    /// What was being opened.
    public struct Attempt: Codable, Sendable, Equatable {
        /// Whether it was the bundle that the app ships with.
        public let shipped: Bool
        /// The manifest's SHA-256.
        public let bundle: String
        /// Of `ComputeUnits`; nil while files are checked and compiled.
        public let units: ComputeUnits?

        public init(shipped: Bool, bundle: String, units: ComputeUnits? = nil) {
            (self.shipped, self.bundle, self.units) = (shipped, bundle, units)
        }
    }

    private let file: URL

    public init(_ file: URL) { self.file = file }

    /// What was being opened when the app ended; nil if it ended otherwise. A file that makes no sense counts as the
    /// picked bundle's: the shipped one can always be opened instead.
    public var interrupted: Attempt? {
        guard let content = try? Data(contentsOf: file) else { return nil }
        return (try? JSONDecoder().decode(Attempt.self, from: content)) ?? Attempt(shipped: false, bundle: "")
    }

    /// - Throws: `HimixError`: it cannot be written, so opening would be unguarded.
    public func begin(_ attempt: Attempt) throws {
        do {
            try FileManager.default.createDirectory(
                at: file.deletingLastPathComponent(), withIntermediateDirectories: true)
            try JSONEncoder().encode(attempt).write(to: file, options: .atomic)
        } catch {
            throw HimixError("a note of what is opened cannot be written (\(error.localizedDescription))")
        }
    }

    /// Opened, or refused in good order.
    public func end() { try? FileManager.default.removeItem(at: file) }

    /// Whether the picked bundle ended the app and was not asked for since: it would do so at every second start.
    public var leavesOutPicked: Bool { FileManager.default.fileExists(atPath: leftOut.path) }

    /// Open the picked bundle no more by itself.
    ///
    /// - Throws: `HimixError`: it cannot be written down.
    public func leaveOutPicked() throws {
        guard FileManager.default.createFile(atPath: leftOut.path, contents: Data()) else {
            throw HimixError("that the picked bundle is left out cannot be written down")
        }
    }

    /// The user asks for it, or has picked another one.
    public func takeUpPicked() { try? FileManager.default.removeItem(at: leftOut) }

    private var leftOut: URL { file.appendingPathExtension("left-out") }
}

/// Which bundle to open when the app starts.
public enum StartChoice: Equatable, Sendable {
    /// Open this one; `note` is for the user.
    case open(URL, isShipped: Bool, note: String?)
    /// Open none by itself: the shipped bundle ended the app.
    case wait(note: String)
    case none

    /// - Parameters:
    ///   - picked: the bundle picked in Files, if there is one.
    ///   - shipped: the one that the app came with.
    ///   - marker: a picked bundle that ended the app is left out from now on.
    /// - Throws: `HimixError`: that cannot be written down.
    public static func make(picked: URL?, shipped: URL?, marker: OpeningMarker) throws -> StartChoice {
        let interrupted = marker.interrupted
        if interrupted?.shipped == false { try marker.leaveOutPicked() }
        let leavesOut = marker.leavesOutPicked
        if let picked, !leavesOut { return .open(picked, isShipped: false, note: nil) }
        let failed = leavesOut ? "The app ended while it opened the picked bundle, so that is left out." : nil
        if interrupted?.shipped == true {
            return .wait(note: "The app ended while it opened its own bundle. Open it again, or pick another one.")
        }
        if let shipped { return .open(shipped, isShipped: true, note: failed) }
        return failed.map { .wait(note: $0 + " Pick another one.") } ?? .none
    }
}
