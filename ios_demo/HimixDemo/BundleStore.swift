import Foundation
import HimixCore

/// Where bundles are: one that the app ships with, in the folder resource Models, or one that was picked in Files.
enum BundleStore {
    private static var pickedFolder: URL { URL.applicationSupportDirectory.appending(path: "bundle") }

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
            let staged = URL.applicationSupportDirectory.appending(path: "bundle-\(UUID().uuidString)")
            do {
                _ = try Manifest.read(folder)  // before anything large is copied
                try files.copyItem(at: folder, to: staged)
                _ = try ModelBundle(verifying: staged)
                try? files.removeItem(at: pickedFolder)
                try files.moveItem(at: staged, to: pickedFolder)
            } catch {
                try? files.removeItem(at: staged)
                throw error
            }
            return pickedFolder
        }.value
    }

    /// Back to the bundle that the app ships with.
    static func forgetPicked() {
        try? FileManager.default.removeItem(at: pickedFolder)
    }

    private static func isBundle(_ folder: URL) -> Bool {
        FileManager.default.fileExists(atPath: folder.appending(path: Manifest.fileName).path)
    }
}
