import Foundation
import HimixCore

/// Where bundles are: one that the app ships with, in the folder resource Models, or one that was picked in Files.
enum BundleStore {
    private static var pickedFolder: URL { URL.applicationSupportDirectory.appending(path: "bundle") }

    /// Says at the next start what was being opened.
    static var marker: OpeningMarker { OpeningMarker(URL.applicationSupportDirectory.appending(path: "opening.json")) }

    /// Which compute units a bundle passed on.
    static var units: UnitsMemory {
        UnitsMemory(
            URL.applicationSupportDirectory.appending(path: "units.json"),
            system: ProcessInfo.processInfo.operatingSystemVersionString)
    }

    /// The first bundle below the app's Models folder.
    static var shipped: URL? {
        guard let models = Bundle.main.url(forResource: "Models", withExtension: nil) else { return nil }
        let names = (try? FileManager.default.contentsOfDirectory(atPath: models.path)) ?? []
        return names.sorted().map { models.appending(path: $0) }.first(where: isBundle)
    }

    /// What was picked before.
    static var picked: URL? { isBundle(pickedFolder) ? pickedFolder : nil }

    /// Copy a picked folder into the app, if it is a sound bundle. The old one goes only when the new one is there.
    static func keep(_ folder: URL) async throws -> URL {
        try await Task.detached {
            let access = folder.startAccessingSecurityScopedResource()
            defer { if access { folder.stopAccessingSecurityScopedResource() } }
            let files = FileManager.default
            try files.createDirectory(at: .applicationSupportDirectory, withIntermediateDirectories: true)
            var staged = URL.applicationSupportDirectory.appending(path: "bundle-\(UUID().uuidString)")
            do {
                let manifest = try Manifest.read(folder)  // before anything large is copied
                try copy([Manifest.fileName] + manifest.allFiles.map(\.path), from: folder, to: staged)
                _ = try ModelBundle(verifying: staged)
                var values = URLResourceValues()
                values.isExcludedFromBackup = true  // it can be copied again, and is large
                try staged.setResourceValues(values)
                try? files.removeItem(at: pickedFolder)
                try files.moveItem(at: staged, to: pickedFolder)
            } catch {
                try? files.removeItem(at: staged)
                throw error
            }
            return pickedFolder
        }.value
    }

    /// The listed files alone: what else lies in a folder is not the bundle's.
    private static func copy(_ paths: [String], from folder: URL, to staged: URL) throws {
        let files = FileManager.default
        for path in paths {
            let (from, to) = (folder.appending(path: path), staged.appending(path: path))
            let attributes = try? files.attributesOfItem(atPath: from.path)
            guard attributes?[.type] as? FileAttributeType == .typeRegular else {
                throw HimixError("\(path): missing, or not a regular file; copy the bundle again")
            }
            try files.createDirectory(at: to.deletingLastPathComponent(), withIntermediateDirectories: true)
            try files.copyItem(at: from, to: to)
        }
    }

    /// Back to the bundle that the app ships with.
    static func forgetPicked() {
        try? FileManager.default.removeItem(at: pickedFolder)
        marker.takeUpPicked()
    }

    private static func isBundle(_ folder: URL) -> Bool {
        FileManager.default.fileExists(atPath: folder.appending(path: Manifest.fileName).path)
    }
}
