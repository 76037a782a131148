import CoreML
import Foundation
import HimixCore

/// Packages compiled for this device, kept in the caches folder so that a bundle is compiled once.
enum CompiledModels {
    /// The compiled model of every role. What other bundles left behind is removed.
    ///
    /// - Throws: `HimixError` naming the package that Core ML cannot compile.
    static func find(_ bundle: ModelBundle) async throws -> [String: URL] {
        let files = FileManager.default
        let folder = try cacheFolder(bundle)
        var compiled: [String: URL] = [:]
        for role in bundle.manifest.roles.keys.sorted() {
            let url = folder.appendingPathComponent("\(role).mlmodelc")
            if !files.fileExists(atPath: url.path) {
                try await compile(bundle.roleURL(role).deletingLastPathComponent(), role, to: url)
            }
            compiled[role] = url
        }
        return compiled
    }

    /// Forget what was compiled: it may be damaged.
    static func remove(_ bundle: ModelBundle) {
        if let folder = try? cacheFolder(bundle) { try? FileManager.default.removeItem(at: folder) }
    }

    private static func compile(_ package: URL, _ role: String, to url: URL) async throws {
        let temporary: URL
        do {
            temporary = try await MLModel.compileModel(at: package)
        } catch {
            throw HimixError("\(role): Core ML cannot compile it (\(error.localizedDescription))")
        }
        do {
            try FileManager.default.moveItem(at: temporary, to: url)
        } catch {
            throw HimixError("\(role): the compiled model cannot be kept (\(error.localizedDescription))")
        }
    }

    /// One folder for this bundle under this version of the system; others are removed.
    private static func cacheFolder(_ bundle: ModelBundle) throws -> URL {
        let files = FileManager.default
        let caches = try files.url(for: .cachesDirectory, in: .userDomainMask, appropriateFor: nil, create: true)
        let all = caches.appendingPathComponent("himix-coreml", isDirectory: true)
        let system = ProcessInfo.processInfo.operatingSystemVersionString
        let name = sha256(Data("\(try bundle.digest()) \(system)".utf8))
        for other in (try? files.contentsOfDirectory(atPath: all.path)) ?? [] where other != name {
            try? files.removeItem(at: all.appendingPathComponent(other))
        }
        let folder = all.appendingPathComponent(name, isDirectory: true)
        try files.createDirectory(at: folder, withIntermediateDirectories: true)
        return folder
    }
}
